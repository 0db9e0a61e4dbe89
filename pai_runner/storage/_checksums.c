/* CRC-32C and CRC-64/XZ: the checksums that object stores keep, at the speed of memory.
 *
 * Python calls this library by ctypes, which lets other threads run meanwhile; nothing of Python
 * is needed here. `crc` is the checksum of what came before, 0 at the start, so that the
 * checksum of a whole can be taken piece by piece.
 *
 * One code serves both. A polynomial over GF(2) is kept reflected, as both checksums have it:
 * bit 63 - n of a word is the coefficient of x^n. CRC-32C is calculated as a CRC of 64 bits whose
 * polynomial is the one of CRC-32C times x^32: its remainders are those of CRC-32C times x^32,
 * which reflected are the same numbers.
 *
 * There are two ways. Tables work everywhere, eight bytes a step (M. E. Kounavis, F. L. Berry, "A
 * Systematic Approach to Building High Performance Software-based CRC Generators", 2005). Where
 * the processor multiplies without carries, 64 bytes a step are folded into the 64 that follow
 * them (V. Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ
 * Instruction", 2009).
 */
#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define STEP 64 /* bytes that are folded at once: four registers of 16 */

typedef struct {
  uint64_t polynomial;
  uint64_t table[8][256]; /* [n][b]: the remainder of the byte b with n zero bytes behind it */
  uint64_t near[2];       /* the multipliers that fold 16 bytes into the next 16 */
  uint64_t far[2];        /* those that fold 16 bytes into the 16 that begin STEP later */
} Crc;

static Crc crc32c = {.polynomial = 0x82F63B78};
static Crc crc64 = {.polynomial = 0xC96C5795D7870F42};
static int can_fold;

/* ====== Set-up ====== */

static uint64_t times_x(const Crc *crc, uint64_t value) {
  return value >> 1 ^ (value & 1 ? crc->polynomial : 0);
}

/* Return what moves a word `bits` forward when it is multiplied by it: x^(bits - 1) modulo the
 * polynomial. The processor's product of two reflected words is the true one times x, hence the
 * 1. */
static uint64_t multiplier(const Crc *crc, int bits) {
  uint64_t value = UINT64_C(1) << 63;
  for (int n = 1; n < bits; n++)
    value = times_x(crc, value);
  return value;
}

static void prepare(Crc *crc) {
  for (int byte = 0; byte < 256; byte++) {
    uint64_t value = (uint64_t)byte;
    for (int bit = 0; bit < 8; bit++)
      value = times_x(crc, value);
    crc->table[0][byte] = value;
  }
  for (int n = 1; n < 8; n++)
    for (int byte = 0; byte < 256; byte++) {
      uint64_t before = crc->table[n - 1][byte];
      crc->table[n][byte] = before >> 8 ^ crc->table[0][before & 0xFF];
    }
  /* The first word of a register has 64 bits further to go than the second. */
  crc->near[0] = multiplier(crc, 128 + 64);
  crc->near[1] = multiplier(crc, 128);
  crc->far[0] = multiplier(crc, 8 * STEP + 64);
  crc->far[1] = multiplier(crc, 8 * STEP);
}

/* The loader runs this before any function can be called, so no thread sees half a table. */
__attribute__((constructor)) static void prepare_all(void) {
  prepare(&crc32c);
  prepare(&crc64);
#if defined(__x86_64__)
  __builtin_cpu_init();
  can_fold = __builtin_cpu_supports("pclmul") != 0;
#endif
}

/* ====== Tables ====== */

/* Return the word that eight bytes are: of the lowest address first, on every processor. */
static inline uint64_t word_at(const unsigned char *data) {
  return (uint64_t)data[0] | (uint64_t)data[1] << 8 | (uint64_t)data[2] << 16 |
         (uint64_t)data[3] << 24 | (uint64_t)data[4] << 32 | (uint64_t)data[5] << 40 |
         (uint64_t)data[6] << 48 | (uint64_t)data[7] << 56;
}

static uint64_t by_tables(const Crc *crc, uint64_t state, const unsigned char *data, size_t size) {
  const uint64_t(*table)[256] = crc->table;
  for (; size >= 8; data += 8, size -= 8) {
    uint64_t word = state ^ word_at(data);
    state = table[7][word & 0xFF] ^ table[6][word >> 8 & 0xFF] ^ table[5][word >> 16 & 0xFF] ^
            table[4][word >> 24 & 0xFF] ^ table[3][word >> 32 & 0xFF] ^
            table[2][word >> 40 & 0xFF] ^ table[1][word >> 48 & 0xFF] ^ table[0][word >> 56];
  }
  for (; size; data++, size--)
    state = state >> 8 ^ table[0][(state ^ *data) & 0xFF];
  return state;
}

/* ====== Folding ====== */

#if defined(__x86_64__)

#define FOLDING static inline __attribute__((target("pclmul"), always_inline))

FOLDING __m128i load(const void *data) { return _mm_loadu_si128((const __m128i *)data); }

/* Return `next` with `value` folded into it. */
FOLDING __m128i fold(__m128i value, __m128i multipliers, __m128i next) {
  __m128i first = _mm_clmulepi64_si128(value, multipliers, 0x00);
  __m128i second = _mm_clmulepi64_si128(value, multipliers, 0x11);
  return _mm_xor_si128(next, _mm_xor_si128(first, second));
}

/* As by_tables; `size` is at least STEP. */
__attribute__((target("pclmul"))) static uint64_t by_folding(const Crc *crc, uint64_t state,
                                                             const unsigned char *data,
                                                             size_t size) {
  const __m128i far = load(crc->far), near = load(crc->near);
  __m128i a = _mm_xor_si128(load(data), _mm_cvtsi64_si128((int64_t)state));
  __m128i b = load(data + 16), c = load(data + 32), d = load(data + 48);
  for (data += STEP, size -= STEP; size >= STEP; data += STEP, size -= STEP) {
    a = fold(a, far, load(data));
    b = fold(b, far, load(data + 16));
    c = fold(c, far, load(data + 32));
    d = fold(d, far, load(data + 48));
  }
  a = fold(fold(fold(a, near, b), near, c), near, d);
  unsigned char left[16]; /* 16 bytes with the same remainder as all before them */
  _mm_storeu_si128((__m128i *)left, a);
  return by_tables(crc, by_tables(crc, 0, left, sizeof left), data, size);
}

#else

static uint64_t by_folding(const Crc *crc, uint64_t state, const unsigned char *data,
                           size_t size) {
  return by_tables(crc, state, data, size);
}

#endif

static uint64_t by_best(const Crc *crc, uint64_t state, const unsigned char *data, size_t size) {
  return can_fold && size >= STEP ? by_folding(crc, state, data, size)
                                  : by_tables(crc, state, data, size);
}

/* ====== What Python calls ====== */

uint32_t pai_crc32c(uint32_t crc, const void *data, size_t size) {
  return ~(uint32_t)by_best(&crc32c, (uint32_t)~crc, data, size);
}

uint64_t pai_crc64(uint64_t crc, const void *data, size_t size) {
  return ~by_best(&crc64, ~crc, data, size);
}

/* The same by tables alone, for tests: a processor that folds would never come here. */
uint32_t pai_crc32c_portable(uint32_t crc, const void *data, size_t size) {
  return ~(uint32_t)by_tables(&crc32c, (uint32_t)~crc, data, size);
}

uint64_t pai_crc64_portable(uint64_t crc, const void *data, size_t size) {
  return ~by_tables(&crc64, ~crc, data, size);
}

/* Return 1 if long data are folded on this processor, else 0. */
int pai_checksums_fold(void) { return can_fold; }
