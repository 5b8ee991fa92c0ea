/* A library whose RUNPATH is $ORIGIN/inner: it finds libinner.so only if glibc knows who calls. */
#include "guest.h"

const char *open_inner(void) {
    void *inner = dlopen("libinner.so", RTLD_NOW);
    return inner ? "found" : dlerror();
}
