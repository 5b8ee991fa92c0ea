/* Calls functions of libc that others interpose. */
#include "guest.h"
#include <link.h>

static int count(struct dl_phdr_info *info, size_t bytes, void *objects) {
    (void)info, (void)bytes;
    ++*(int *)objects;
    return 0;
}

int main(void) {
    int objects = 0;
    printf("page %d\n", getpagesize() > 0);
    dl_iterate_phdr(count, &objects);
    printf("objects %d\n", objects > 2);
    return 0;
}
