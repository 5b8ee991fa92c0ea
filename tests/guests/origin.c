#include "guest.h"

int main(int count, char **arguments) {
    void *outer = count > 1 ? dlopen(arguments[1], RTLD_NOW) : NULL;
    if (!outer) return printf("%s\n", dlerror()), 1;
    printf("inner: %s\n", ((const char *(*)(void))dlsym(outer, "open_inner"))());
    return 0;
}
