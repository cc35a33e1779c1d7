/* AMX's tiles in plain C, put before the kernel's source (-include), so that its tests run on every CPU with AVX-512. As far as the
 * kernel goes: tiles of 16 rows of 64 bytes, whatever their configuration says, and no permission of Linux's. Those are tried on such CPUs alone. Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, TDPBUSD. */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

static _Thread_local uint8_t emulated_tiles[8][16][64];

static inline void emulated_load(int tile, const void *from, int64_t stride) {
    for (int row = 0; row < 16; row++) memcpy(emulated_tiles[tile][row], (const char *)from + row * stride, 64);
}

static inline void emulated_store(int tile, void *to, int64_t stride) {
    for (int row = 0; row < 16; row++) memcpy((char *)to + row * stride, emulated_tiles[tile][row], 64);
}

static inline void emulated_multiply(int sum, int left, int right) {
    for (int row = 0; row < 16; row++)
        for (int column = 0; column < 16; column++) {
            int32_t total;
            memcpy(&total, &emulated_tiles[sum][row][column * 4], sizeof total);
            for (int i = 0; i < 64; i++)
                total += emulated_tiles[left][row][i] * (int8_t)emulated_tiles[right][i / 4][column * 4 + i % 4];
            memcpy(&emulated_tiles[sum][row][column * 4], &total, sizeof total);
        }
}

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbusd
#define _tile_loadconfig(layout) ((void)(layout))
#define _tile_release() ((void)0)
#define _tile_zero(tile) memset(emulated_tiles[tile], 0, sizeof emulated_tiles[tile])
#define _tile_loadd emulated_load
#define _tile_stored emulated_store
#define _tile_dpbusd emulated_multiply
#define syscall(...) 0 /* Linux gives permission */
