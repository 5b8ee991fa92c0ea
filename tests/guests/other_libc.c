/* An interposer of a function of libc: RTLD_NEXT must mean behind *this* library, each time it is asked. */
#include "guest.h"

int getpagesize(void) {
    static int depth;
    if (++depth > 8) {
        printf("recursion\n");
        _exit(9);
    }
    int (*first)(void) = (int (*)(void))dlsym(RTLD_NEXT, "getpagesize");
    int (*second)(void) = (int (*)(void))dlsym(RTLD_NEXT, "getpagesize");
    show("next, first time", (void *)first);
    show("next, second time", (void *)second);
    int bytes = second ? second() : -1;
    depth--;
    return bytes;
}
