/* Raw system calls for x86-64 and aarch64: the only assembly, and the one seam to the kernel. */
#ifndef CRECHE_SYS_H
#define CRECHE_SYS_H
/* errno lives in thread-local storage, which a CLONE_VM child shares with the thread that cloned it; so
   nothing here touches it: each call gives the result or -errno. */

#include <stddef.h>
#include <stdint.h>
#include <asm/unistd.h>

#ifdef CRECHE_RECORD
long creche_record(long nr, long a, long b, long c, long d, long e, long f);
#define sys6(nr, a, b, c, d, e, f) creche_record(nr, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#else
#if defined __x86_64__
static inline long sys_raw(long nr, long a, long b, long c, long d, long e, long f)
{
	long r;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	__asm__ volatile("syscall" : "=a"(r) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
		: "rcx", "r11", "memory");
	return r;
}
#elif defined __aarch64__
static inline long sys_raw(long nr, long a, long b, long c, long d, long e, long f)
{
	register long x8 __asm__("x8") = nr;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = f;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory", "cc");
	return x0;
}
#else
#error "creche knows x86-64 and aarch64"
#endif
#define sys6(nr, a, b, c, d, e, f) sys_raw(nr, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#endif
#define sys5(nr, a, b, c, d, e) sys6(nr, a, b, c, d, e, 0)
#define sys4(nr, a, b, c, d) sys5(nr, a, b, c, d, 0)
#define sys3(nr, a, b, c) sys4(nr, a, b, c, 0)
#define sys2(nr, a, b) sys3(nr, a, b, 0)
#define sys1(nr, a) sys2(nr, a, 0)
#define sys0(nr) sys1(nr, 0)

/* clone3 with a stack of its own: the child must never return through the caller's frame (clone(2)), so it
   calls `child` and exits with what that gives, all within this one statement. */
static inline long sys_clone3_stack(void *args, size_t size, int (*child)(void *), void *arg)
{
#if defined CRECHE_RECORD
	(void)child, (void)arg;
	return sys2(__NR_clone3, args, size);
#elif defined __x86_64__
	long r;
	register int (*fn)(void *) __asm__("r8") = child;
	register void *fn_arg __asm__("r9") = arg;
	__asm__ volatile(
		"syscall\n\t"
		"test %%eax, %%eax\n\t"
		"jnz 1f\n\t"
		"xor %%ebp, %%ebp\n\t"
		"mov %%r9, %%rdi\n\t"
		"call *%%r8\n\t"
		"mov %%eax, %%edi\n\t"
		"mov %[exit], %%eax\n\t"
		"syscall\n\t"
		"hlt\n"
		"1:"
		: "=a"(r)
		: "a"(__NR_clone3), "D"(args), "S"(size), "r"(fn), "r"(fn_arg), [exit] "i"(__NR_exit_group)
		: "rcx", "r11", "memory");
	return r;
#else
	register long x8 __asm__("x8") = __NR_clone3;
	register long x0 __asm__("x0") = (long)args;
	register long x1 __asm__("x1") = (long)size;
	register int (*fn)(void *) __asm__("x9") = child;
	register void *fn_arg __asm__("x10") = arg;
	__asm__ volatile(
		"svc 0\n\t"
		"cbnz x0, 1f\n\t"
		"mov x29, xzr\n\t"
		"mov x0, x10\n\t"
		"blr x9\n\t"
		"mov x8, %[exit]\n\t"
		"svc 0\n"
		"1:"
		: "+r"(x0)
		: "r"(x8), "r"(x1), "r"(fn), "r"(fn_arg), [exit] "i"(__NR_exit_group)
		: "memory", "cc", "x30");
	return x0;
#endif
}
#endif
