// cuota's shared memory, for readers in other languages. Written by scripts/regenerate-header from crates/region; do
// not edit.
//
// Three kinds of file lie below $CUOTA_DIR (default /dev/shm/cuota). The number in their names is the layout's major
// version; a reader also checks the magic number, the layout hash and the length before it believes anything.
//
//   policy.v1             struct cuota_policy_file   written by the operator
//   tenant/NAME.v1        struct cuota_tenant_file   written by that tenant's processes
//   tenant/NAME.v1.live   no content                 the process at place n holds a POSIX record lock on byte n
//
// Every field is an atomic of its size, in the machine's byte order (little-endian): load each with one access of that
// width, relaxed where nothing else is said. There is no lock to take. Map the files read-only; a tenant's file is
// hostile input for everybody else, so bound every index by the constants here, not by what the file says. A tenant's
// usage on a GPU is the sum of `booked` over the lines of that GPU whose `life` has bit 0 set and whose place's byte of
// the live file is locked (fcntl F_GETLK: the lock's type tells, never its pid). Fields named `reserved` are 0.

#ifndef CUOTA_H
#define CUOTA_H

#include <stdint.h>

#if defined(__STDC_VERSION__) && __STDC_VERSION__ >= 202311L
#define CUOTA_ALIGNED(n) alignas(n)
#elif defined(__GNUC__)
#define CUOTA_ALIGNED(n) __attribute__((aligned(n)))
#else
#error "cuota.h needs a compiler that can align a structure"
#endif
