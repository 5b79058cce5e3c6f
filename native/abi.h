/* What Python, the step interpreter and the init agree upon: opcodes, records and sizes, written once. */
#ifndef CRECHE_ABI_H
#define CRECHE_ABI_H

/* cffi reads this file too, so it holds plain declarations only; the compiler alone sees the lines between
   the guards below. */

/* The Steps. A name here is an opcode there: CRECHE_OP_<NAME>, numbered in this order. */
#define CRECHE_STEPS(X) \
	X(OPEN) X(OPEN_TREE) X(MOUNT_ATTR) X(PROPAGATION) X(IDENTITY) \
	X(FS_OPEN) X(FS_STRING) X(FS_FLAG) X(FS_FD) X(FS_MOUNT) X(FS_READ_ONLY) X(UNOWNED) X(OVERLAY_OLD) \
	X(STAGE) X(UNSTAGE) X(ROOT) X(ATTACH) X(MASK) X(READ_ONLY) X(MKDIR) X(SYMLINK) X(FILE) X(LINK_TREE) X(PIVOT) \
	X(HOSTNAME) X(DOMAINNAME) X(LOOPBACK) X(WRITE) X(CLOSE) X(KEEP) \
	X(SETSID) X(PTY) X(DESCRIPTORS) X(OWN) X(RLIMIT) X(UMASK) X(NICE) X(CGROUP) X(UNSHARE) \
	X(KEEP_CAPS) X(GROUPS) X(USER) X(CAPABILITIES) X(NO_NEW_PRIVS) X(CHDIR) X(SIGNALS) \
	X(LANDLOCK) X(LANDLOCK_PATH) X(LANDLOCK_PORT) X(LANDLOCK_RESTRICT) X(SECCOMP) X(EXEC) \
	X(MAP) X(MAP_TOOL) X(PROC_WRITE) X(IDMAP) X(ENTER) X(KEYRINGS) X(LAYERS) X(ROOM)

#include <stdint.h>

enum {
	CRECHE_MAGIC = 0x63726331,      /* "crc1" */
	CRECHE_ABI = 1,
	CRECHE_SLOTS = 1024,            /* descriptors that Steps name by number instead of by path */
	CRECHE_SLOT_NONE = 0xffff,
	CRECHE_SLOT_ROOT = 0,           /* the container's root directory, kept by the init */
	CRECHE_SLOT_PROC = 1,           /* a proc of its own, kept by the init */
	CRECHE_SLOT_DEVPTS = 2,         /* its devpts, kept by the init */
	CRECHE_SLOT_PTY = 3,            /* a new command's terminal (the master) */
	CRECHE_SLOT_SOURCES = 6,        /* the stage beneath its root, kept by the init */
	CRECHE_SLOT_LAYERS = 7,         /* where its root's throw-away upper layer lies, kept by the init */
	CRECHE_SLOT_VIEW = 8,           /* what its HostView shares with others, kept by the init */
	CRECHE_SLOT_GIVEN = 9,          /* goes to whoever supervises, with READY */
	CRECHE_SLOT_PASSED = 16,        /* the first of the descriptors that came with a message */
	CRECHE_MAX_FDS = 250,           /* descriptors in one message: unix(7) allows 253 */
	CRECHE_INLINE = 98304,          /* a larger Plan travels as a sealed memfd */
	CRECHE_MAX_BLOB = 16777216,
	CRECHE_MAX_STEPS = 8192,
	CRECHE_MAX_COMMANDS = 1024,     /* alive in one container at a time */
	CRECHE_TEXT = 224,
	CRECHE_BRIEF_US = 1500,         /* from the clone on */
};

/* VIEW is added to another: of the process that made what a HostView shares. */
enum { CRECHE_PHASE_PARENT, CRECHE_PHASE_CHILD, CRECHE_PHASE_SETUP, CRECHE_PHASE_COMMAND, CRECHE_PHASE_VIEW };

/* Flags of Steps. */
enum {
	CRECHE_OPTIONAL = 1,            /* SYMLINK, STAGE, MKDIR, LANDLOCK_PATH, GROUPS, WRITE: there already, absent or denied is well too */
	CRECHE_RECURSIVE = 2,           /* OPEN_TREE, LINK_TREE, MOUNT_ATTR */
	CRECHE_DIRECTORY = 4,           /* OPEN: nothing else will do; ATTACH with slot2: make one */
	CRECHE_KEEP_SLOT = 8,           /* ATTACH: the slot is used again */
	CRECHE_WRITABLE = 16,           /* FILE: stays writable while built */
	CRECHE_INSIDE = 32,             /* OPEN, OPEN_TREE: the path is resolved in the container's root */
	CRECHE_NO_LINK = 64,            /* ATTACH: what is there must be a directory, not a link to one; MASK, READ_ONLY: one name, which is no link */
	CRECHE_GROUP_MAP = 128,         /* MAP, MAP_TOOL: gid_map rather than uid_map */
	CRECHE_DENY_SETGROUPS = 256,    /* MAP: write "deny" to setgroups first: user_namespaces(7) */
	CRECHE_NO_ROOT = 512,           /* CAPABILITIES: uid 0 gains nothing by exec (SECBIT_NOROOT, locked) */
	CRECHE_BOUNDING = 4096,         /* CAPABILITIES: the bounding set alone, for all that is started from here on */
	CRECHE_NOT_INHERITED = 2048,    /* CAPABILITIES: all that are permitted stay so, none is inheritable or ambient */
	CRECHE_OWN = 8192,              /* WRITE: on the mount that the slot holds, and no other */
	CRECHE_USERXATTR = 1024,        /* OVERLAY_OLD: in a user namespace (overlayfs.rst) */
};

/* Details of a failure that an errno can't tell. */
enum {
	CRECHE_DETAIL_NONE,
	CRECHE_DETAIL_INTERPRETER,      /* EXEC: the file is there, its interpreter is not */
	CRECHE_DETAIL_CLONE,            /* clone3 itself failed */
	CRECHE_DETAIL_JOIN,             /* setns failed: text names the kind */
	CRECHE_DETAIL_INIT,             /* the init could not be executed */
	CRECHE_DETAIL_TOOL,             /* newuidmap or newgidmap ended with status `index` */
	CRECHE_DETAIL_LOG,              /* text is the file system context's own log */
	CRECHE_DETAIL_MOVED,            /* the supervisor's descriptors: out of them */
	CRECHE_DETAIL_SELF,             /* RESET: a guest has changed the init, and that can't be undone: text says what */
};

struct creche_header {
	uint32_t magic, abi, size, steps, text, reserved;
};

struct creche_step {
	uint16_t op, slot, slot2, reserved;
	uint32_t flags;
	uint32_t text, text_size;       /* each text is followed by a NUL that its size doesn't count */
	uint32_t text2, text2_size;
	uint32_t text3, text3_size;
	uint32_t blame;                 /* which field of the Spec: Python's number, carried for the failure record */
	uint64_t a, b;
};

struct creche_failure {
	uint32_t phase, index, op, blame, detail;
	int32_t error;                  /* an errno, 0: nothing failed */
	uint32_t text_size, reserved;
	char text[224];
};

/* Messages to the init. SIGNAL is for a command, with id 0 for every process. */
enum { CRECHE_GO = 1, CRECHE_SETUP, CRECHE_RUN, CRECHE_SIGNAL, CRECHE_OPEN_FILE, CRECHE_HOLD, CRECHE_RESET };
/* A message to a template (fork.c): a container of these namespaces (a), its maps being the text, gid_map's and uid_map's. With it
   come its init's socket, a pidfd of the supervisor, the init's program, and the other end of the socket that its forked command is
   told by. The answer is STARTED with the init's pidfd, `id` being the forked command's number inside, or START_FAILED. */
enum { CRECHE_FORK = 33 };
/* What OPEN_FILE asks for, below a directory that comes with it; OPEN without one: below the root. Where its root's layers lie:
   LAYER opens, TREE copies the mounts, STAGE attaches a tree that comes with it, UNSTAGE takes that away. */
enum {
	CRECHE_FILE_OPEN, CRECHE_FILE_MKDIR, CRECHE_FILE_UNLINK, CRECHE_FILE_RMDIR, CRECHE_FILE_SYMLINK, CRECHE_FILE_MODE,
	CRECHE_FILE_OWNER, CRECHE_FILE_LAYER, CRECHE_FILE_XATTR, CRECHE_FILE_TREE, CRECHE_FILE_STAGE, CRECHE_FILE_UNSTAGE
};
/* Messages from it. */
enum { CRECHE_READY = 65, CRECHE_FAILED, CRECHE_STARTED, CRECHE_START_FAILED, CRECHE_EXITED, CRECHE_OPENED };

enum {
	CRECHE_RUN_MAIN = 1,            /* the container ends with this command */
	CRECHE_RUN_PTY = 2,
	CRECHE_BLOB_MEMFD = 4,          /* the first descriptor is the Plan */
	CRECHE_QUIET = 8,               /* SETUP: a command follows, whose start says READY too */
	CRECHE_RUN_LISTENER = 16,       /* its filter has a listener, which travels with STARTED as the last descriptor */
	CRECHE_RUN_BRIEF = 32,          /* where it ends within CRECHE_BRIEF_US, EXITED alone says that it started, too */
	CRECHE_RUN_FORKED = 64,         /* it is there already: the init's child with the number `number`; there is no Plan */
};

/* What the sendmsg that hands a listener over bears in its unused arguments 4 and 5: the filter with the listener lets that one
   pass, and the one above it, which comes right after, refuses it for ever. */
enum { CRECHE_HANDOVER_4 = 0x63726368, CRECHE_HANDOVER_5 = 0x656c6973 };

struct creche_request {
	uint32_t type, id, flags, size;
	int32_t number, reserved;       /* SIGNAL: the signal; OPEN_FILE: open flags */
	uint64_t a, b;                  /* RUN with a PTY: rows, columns; OPEN_FILE: mode or owner, CRECHE_FILE_* */
};

struct creche_reply {
	uint32_t type, id;
	int32_t status, reserved;       /* EXITED: as wait4(2) gives it; OPENED: 0 or -errno */
	uint64_t user_us, system_us, maxrss_kib, minor_faults, major_faults, blocks_in, blocks_out,
		voluntary_switches, involuntary_switches;
	struct creche_failure failure;
};

/* A spawn, as Python asks for it. */
enum {
	CRECHE_SPAWN_INIT = 1,          /* process 1 is our init, executed from memory */
	CRECHE_SPAWN_COPY = 2,          /* the child gets a copy of the memory */
	CRECHE_SPAWN_AMBIENT = 4,       /* capabilities in a user namespace outlive the exec of the init */
	CRECHE_SPAWN_AT_ONCE = 8,       /* which needs no maps for that, and does not wait for them */
};
enum { CRECHE_QUEUED, CRECHE_CLONING, CRECHE_WAITING, CRECHE_RUNNING, CRECHE_DEAD };

#endif
