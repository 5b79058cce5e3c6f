/* Binds to the first version of what glibc has given later versions without a change, so that a wheel built here loads there too. */
/* Only .ci/wheels includes it (-include). glibc 2.34 and 2.32 moved these from libpthread into libc and gave them a version anew;
 * the old version stays an alias of the same code. An older glibc has them in libpthread, which every CPython there has loaded. */
#if defined(__x86_64__)
#define CRECHE_FIRST "GLIBC_2.2.5"
#elif defined(__aarch64__)
#define CRECHE_FIRST "GLIBC_2.17"
#endif
__asm__(".symver pthread_create, pthread_create@" CRECHE_FIRST);
__asm__(".symver pthread_attr_setstacksize, pthread_attr_setstacksize@" CRECHE_FIRST);
__asm__(".symver pthread_sigmask, pthread_sigmask@" CRECHE_FIRST);
