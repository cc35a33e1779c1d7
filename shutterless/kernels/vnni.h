/* The vectors of CPUs with AVX-512 VNNI: Intel's since 2019, AMD's since 2022. They multiply one pixel by 16 maps and 4 bytes at a time;
 * weights lie by panel, four bytes of a window, map. */

enum { AHEAD = 4 * 1024 }; /* bytes of weights that are on their way while others are multiplied: they come from the third cache */

/* Of a weight in its panel: a map's, for one of a window's bytes. */
static inline size_t place_of(uint32_t map, uint32_t byte) { return byte / 4 * (PANEL * 4) + map * 4 + byte % 4; }

static inline int32_t number_at(const uint8_t *place) {
    int32_t number;
    memcpy(&number, place, sizeof number);
    return number;
}

/* Sums of `rows` pixels, or what there is `more` of them. Every third row has a pointer of its own, and the two after it are one and two
 * strides from there. */
static inline __attribute__((always_inline)) void multiply(const uint8_t *pixels, int64_t stride, const int rows, const int8_t *weights,
                                                           int64_t depth, Sums *sums, int more) {
#define START(row)                                                                                                   \
    __m512i left##row = row < rows && more ? _mm512_load_si512(sums->of[row]) : _mm512_setzero_si512();               \
    __m512i right##row = row < rows && more ? _mm512_load_si512(sums->of[row] + TILE) : _mm512_setzero_si512();
#define THIRD(row) const uint8_t *from##row = pixels + (row < rows ? row * stride : 0);
#define ADD(row, third)                                                                      \
    if (row < rows) {                                                                        \
        __m512i each = _mm512_set1_epi32(number_at(from##third + (row - third) * stride));   \
        left##row = _mm512_dpbusd_epi32(left##row, each, left);                              \
        right##row = _mm512_dpbusd_epi32(right##row, each, right);                           \
    }
#define KEEP(row) \
    if (row < rows) _mm512_store_si512(sums->of[row], left##row), _mm512_store_si512(sums->of[row] + TILE, right##row);
    EACH_ROW(START)
    THIRD(0) THIRD(3) THIRD(6) THIRD(9) THIRD(12)
    for (const int8_t *end = weights + depth * PANEL; weights < end; weights += 4 * PANEL) {
        __m512i left = _mm512_load_si512(weights), right = _mm512_load_si512(weights + STEP);
        _mm_prefetch((const char *)((uintptr_t)weights + AHEAD), _MM_HINT_T0);
        _mm_prefetch((const char *)((uintptr_t)weights + AHEAD + STEP), _MM_HINT_T0);
        ADD(0, 0) ADD(1, 0) ADD(2, 0) ADD(3, 3) ADD(4, 3) ADD(5, 3) ADD(6, 6)
        ADD(7, 6) ADD(8, 6) ADD(9, 9) ADD(10, 9) ADD(11, 9) ADD(12, 12) ADD(13, 12)
        from0 += 4, from3 += 4, from6 += 4, from9 += 4, from12 += 4;
    }
    EACH_ROW(KEEP)
#undef START
#undef THIRD
#undef ADD
#undef KEEP
}

#define OF_ROWS(rows)                                                                                                          \
    static void multiply_##rows(const uint8_t *pixels, int64_t stride, const int8_t *weights, int64_t depth, Sums *sums, int more) { \
        multiply(pixels, stride, rows, weights, depth, sums, more);                                                                  \
    }
OF_ROWS(1) OF_ROWS(2) OF_ROWS(3) OF_ROWS(4) OF_ROWS(5) OF_ROWS(6) OF_ROWS(7)
OF_ROWS(8) OF_ROWS(9) OF_ROWS(10) OF_ROWS(11) OF_ROWS(12) OF_ROWS(13) OF_ROWS(14)

static void (*const MULTIPLY[GROUP])(const uint8_t *, int64_t, const int8_t *, int64_t, Sums *, int) = {
    multiply_1, multiply_2, multiply_3, multiply_4, multiply_5, multiply_6, multiply_7, multiply_8, multiply_9, multiply_10,
    multiply_11, multiply_12, multiply_13, multiply_14};

/* All rows, for the maps from `map` on, in groups as equal as can be. */
static void convolve_panel(const Convolution *c, const Rows *r, int64_t map, int fetched, uint8_t *y) {
    Sums sums;
    Rounding halves[2] = {rounding_of(c, r, map), rounding_of(c, r, map + TILE)};
    int64_t groups = (r->count + GROUP - 1) / GROUP;
    (void)fetched; /* to fetch what is there costs nothing */
    for (int64_t group = 0, row = 0, here; group < groups; group++, row += here) {
        here = (r->count - row) / (groups - group);
        const uint8_t *pixels = r->rows + row * r->stride;
        for (int part = 0; part < r->parts_count; pixels += r->parts[part++].length)
            MULTIPLY[here - 1](pixels, r->stride, c->weights + map * c->padded + r->parts[part].at * PANEL, r->parts[part].length,
                               &sums, part > 0);
        write_rounded(c, r, &sums, row, here, halves, map, y);
    }
}

static OrtStatus *ask_for_unit(const OrtApi *api) { return (void)api, NULL; }
static void prepare_unit(void) {}
static void leave_unit(void) {}
