/* Opens a plugin with RTLD_DEEPBIND: it would see the driver in front of us. */
#include "guest.h"

int main(int count, char **arguments) {
    void *plugin = count > 1 ? dlopen(arguments[1], RTLD_NOW | RTLD_DEEPBIND) : NULL;
    if (!plugin) return printf("%s\n", dlerror()), 1;
    ((void (*)(void))dlsym(plugin, "plugin"))();
    return 0;
}
