/* Linked with -lcuda: the loader binds the calls. */
#include "guest.h"

int cuInit(unsigned flags);
int cuMemAlloc_v2(unsigned long long *address, size_t bytes);

int main(void) {
    unsigned long long address = 0;
    show("bound", (void *)cuMemAlloc_v2);
    printf("init %d\n", cuInit(0));
    printf("alloc %d\n", cuMemAlloc_v2(&address, 1 << 20));
    printf("reached the driver %d\n", driver_calls());
    return 0;
}
