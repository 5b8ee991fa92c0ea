/* An interposer of dl_iterate_phdr that looks for the next one by dlsym, as caches for exception unwinding do. */
#include "guest.h"
#include <link.h>

typedef int (*iterate_fn)(int (*)(struct dl_phdr_info *, size_t, void *), void *);

int dl_iterate_phdr(int (*callback)(struct dl_phdr_info *, size_t, void *), void *data) {
    static iterate_fn next;
    static int depth;
    if (++depth > 8) {
        printf("recursion\n");
        _exit(9);
    }
    if (!next) next = (iterate_fn)dlsym(RTLD_NEXT, "dl_iterate_phdr");
    int result = next(callback, data);
    depth--;
    return result;
}
