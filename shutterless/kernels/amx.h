/* The unit of Intel's server CPUs since 2023 (AMX): it multiplies 16 pixels by 16 maps and 64 bytes at a time. A window's bytes come in
 * steps of 64; weights lie by panel, step, half of the panel: tiles of 16 times 64 bytes, as the unit takes them. */
#include <errno.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    AHEAD = 8 * 1024, /* bytes of weights that are on their way while others are multiplied: they come from the third cache */
    REQUEST_PERMISSION = 0x1023, /* arch_prctl's ARCH_REQ_XCOMP_PERM, of tile data: Linux, Documentation/arch/x86/xstate.rst */
    TILE_DATA = 18
};

/* Of a weight in its panel: a map's, for one of a window's bytes. */
static inline size_t place_of(uint32_t map, uint32_t byte) {
    return byte / STEP * (PANEL * STEP) + map / TILE * (TILE * STEP) + byte % STEP / 4 * STEP + map % TILE * 4 + byte % 4;
}

static inline void fetch(const int8_t *weights) {
    for (int line = 0; line < PANEL; line++) _mm_prefetch((const char *)((uintptr_t)weights + AHEAD + line * STEP), _MM_HINT_T0);
}

/* The compiler may think that the unit reads nothing from memory: all that is written has to be there before it does. */
static inline void finish_writing(const void *written) { __asm__ volatile("" : : "r"(written) : "memory"); }

/* Sums of up to GROUP pixels. Whole tiles of them are read, so 16 rows for any part. */
static inline void multiply(const Rows *r, int64_t row, int64_t count, const int8_t *panel, int fetched) {
    const uint8_t *pixels = r->rows + row * r->stride;
    finish_writing(pixels);
    _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
    for (const Part *part = r->parts; part < r->parts + r->parts_count; part++) {
        const int8_t *weights = panel + part->at * PANEL;
        const uint8_t *end = pixels + part->length;
        if (count > TILE) {
            for (; pixels < end; pixels += STEP, weights += PANEL * STEP) {
                if (!fetched) fetch(weights);
                _tile_loadd(4, pixels, r->stride);
                _tile_loadd(6, weights, STEP);
                _tile_loadd(7, weights + TILE * STEP, STEP);
                _tile_loadd(5, pixels + TILE * r->stride, r->stride);
                _tile_dpbusd(0, 4, 6); _tile_dpbusd(1, 4, 7); _tile_dpbusd(2, 5, 6); _tile_dpbusd(3, 5, 7);
            }
        } else {
            for (; pixels < end; pixels += STEP, weights += PANEL * STEP) {
                if (!fetched) fetch(weights);
                _tile_loadd(4, pixels, r->stride);
                _tile_loadd(6, weights, STEP);
                _tile_loadd(7, weights + TILE * STEP, STEP);
                _tile_dpbusd(0, 4, 6); _tile_dpbusd(1, 4, 7);
            }
        }
    }
}

static inline void keep(Sums *sums) {
    _tile_stored(0, sums->of[0], PANEL * 4); _tile_stored(1, sums->of[0] + TILE, PANEL * 4);
    _tile_stored(2, sums->of[TILE], PANEL * 4); _tile_stored(3, sums->of[TILE] + TILE, PANEL * 4);
}

/* All rows, for the maps from `map` on. Each group's sums are rounded while the unit multiplies the next one's. */
static void convolve_panel(const Convolution *c, const Rows *r, int64_t map, int fetched, uint8_t *y) {
    Sums sums[2];
    Rounding halves[2] = {rounding_of(c, r, map), rounding_of(c, r, map + TILE)};
    int64_t group = 0, row = 0, before = 0;
    for (; row < r->count; row += before, group++) {
        int64_t here = r->count - row < GROUP ? r->count - row : GROUP;
        multiply(r, row, here, c->weights + map * c->padded, fetched || group > 0);
        if (before) write_rounded(c, r, &sums[(group - 1) % 2], row - before, before, halves, map, y);
        keep(&sums[group % 2]);
        before = here;
    }
    write_rounded(c, r, &sums[(group - 1) % 2], row - before, before, halves, map, y);
}

static void prepare_unit(void) {
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } layout = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) layout.bytes[tile] = STEP, layout.rows[tile] = TILE;
    finish_writing(&layout);
    _tile_loadconfig(&layout);
}

static void leave_unit(void) { _tile_release(); }

static OrtStatus *ask_for_unit(const OrtApi *api) {
    char message[128];
    if (!syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA)) return NULL;
    snprintf(message, sizeof message, "Linux gives no permission to use AMX: %s", strerror(errno));
    return failure(api, message);
}
