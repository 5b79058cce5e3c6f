/* What Python hands to a container though no image has a part in it, embedded beside the init: the probe, the fork library. */
#include "pool.h"
#include "fork_elf.h"
#include "probe_elf.h"

const unsigned char *creche_probe(unsigned *size)
{
	*size = sizeof probe_elf;
	return probe_elf;
}

const unsigned char *creche_fork_library(unsigned *size)
{
	*size = sizeof fork_elf;
	return fork_elf;
}
