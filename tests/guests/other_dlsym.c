/* Another interposer of dlsym, which finds the next one as such interposers do: dlvsym with guessed versions. It
 * cannot jump, so it passes RTLD_NEXT on with itself as the caller; it does not touch the names it does not know. */
#include "guest.h"

typedef void *(*dlsym_fn)(void *handle, const char *name);

static __thread int depth;

void *dlsym(void *handle, const char *name) {
    static dlsym_fn next;
    if (++depth > 8) {
        printf("recursion\n");
        _exit(9);
    }
    if (!next) {
        static const char *const versions[] = {"GLIBC_2.34", "GLIBC_2.2.5", "GLIBC_2.17"};
        for (int i = 0; i < 3 && !next; i++) next = (dlsym_fn)dlvsym(RTLD_NEXT, "dlsym", versions[i]);
    }
    void *found = next(handle, name);
    depth--;
    return found;
}
