/* A library with the driver's names, to link with. Nobody calls its functions: at run time another one stands in its place. */
#define X(name) int name(void) { return 999; }
#include LINKED
