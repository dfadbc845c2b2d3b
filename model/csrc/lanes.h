// Vectors of fp32 and bf16 numbers: loads, stores, sums, conversions, dot products, exp and silu.
//
// One vector is LANES fp32 numbers: 16 with AVX-512, 8 with AVX, else 4 (SSE, NEON). Code uses the compiler's
// vector types where possible, and intrinsics elsewhere; so every kernel on top has one source for all processors, and
// `+ - * /` work on vectors. A bf16 number is its 16 bits.

#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define LANES_AVX512 1
#endif
#if defined(LANES_AVX512) && defined(__AVX512BF16__)
#define LANES_BF16_PAIRS 1  // instructions that round to bf16, and that make two bf16 products per lane
#if !BF16_BY_FMA            // by the processor's measured rates, see model/kernel_ways.py
#define LANES_BF16_DOT 1    // such products are used
#endif
#endif
#if defined(LANES_AVX512) && defined(__AVX512VNNI__)
#define LANES_BYTE_DOT 1  // four products of bytes per lane and instruction
#endif

#define LANES_EXPORT extern "C" __attribute__((visibility("default")))
#define LANES_INLINE inline __attribute__((always_inline))

namespace lanes {

#if defined(LANES_AVX512)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef uint16_t bf16;
typedef float Floats __attribute__((vector_size(LANES * 4)));
typedef int32_t Ints __attribute__((vector_size(LANES * 4)));
typedef uint32_t Words __attribute__((vector_size(LANES * 4)));
typedef uint16_t Halves __attribute__((vector_size(LANES * 2)));   // LANES bf16 numbers
typedef int16_t Shorts __attribute__((vector_size(LANES * 4)));

template <typename To, typename From>
LANES_INLINE To bits(const From &from) {
    static_assert(sizeof(To) == sizeof(From), "same bits, other type");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

// Keeps a loaded vector in its register: GCC would rather load it again for each use, or make its lanes one by one.
LANES_INLINE Words held(Words values) {
#if defined(LANES_AVX512)
    asm("" : "+v"(values));
#elif defined(__AVX__)
    asm("" : "+x"(values));
#elif defined(__aarch64__)
    asm("" : "+w"(values));
#endif
    return values;
}

LANES_INLINE Floats zeros() { return Floats{}; }
LANES_INLINE Floats all(float value) { return Floats{} + value; }

// --- One number -------------------------------------------------------------------------------------------------

LANES_INLINE float widen(bf16 value) { return bits<float>(static_cast<uint32_t>(value) << 16); }

// To the nearest, ties to even; NaN stays one.
LANES_INLINE bf16 narrow(float value) {
    const uint32_t word = bits<uint32_t>(value);
    if ((word & 0x7fffffffu) > 0x7f800000u) return static_cast<bf16>((word >> 16) | 0x40u);
    return static_cast<bf16>((word + 0x7fffu + ((word >> 16) & 1u)) >> 16);
}

// --- Vectors: whole, unaligned ------------------------------------------------------------------------------------

LANES_INLINE Floats widen(Halves values) {
    return bits<Floats>(__builtin_convertvector(values, Words) << 16);
}

// As of one number.
LANES_INLINE Halves narrow_exactly(Floats values) {
    const Words words = bits<Words>(values);
    const Words rounded = (words + 0x7fffu + ((words >> 16) & 1u)) >> 16;
    const Words is_nan = bits<Words>((words & 0x7fffffffu) > 0x7f800000u);
    return __builtin_convertvector((is_nan & ((words >> 16) | 0x40u)) | (~is_nan & rounded), Halves);
}

LANES_INLINE Halves narrow(Floats values) {
#if defined(LANES_BF16_PAIRS)
    return bits<Halves>(_mm512_cvtneps_pbh(bits<__m512>(values)));  // numbers below 2^-126 become zero
#else
    return narrow_exactly(values);
#endif
}

LANES_INLINE Floats load(const float *from) {
    Floats values;
    std::memcpy(&values, from, sizeof values);
    return values;
}

LANES_INLINE Floats load(const bf16 *from) {
    Halves values;
    std::memcpy(&values, from, sizeof values);
    return widen(values);
}

LANES_INLINE void store(float *to, Floats values) { std::memcpy(to, &values, sizeof values); }

LANES_INLINE void store(bf16 *to, Halves halves) { std::memcpy(to, &halves, sizeof halves); }
LANES_INLINE void store(bf16 *to, Floats values) { store(to, narrow(values)); }

// --- Vectors: the first `count` numbers, 0 <= count <= LANES; the others are zero and not touched in memory ------------

LANES_INLINE Floats load_part(const float *from, int64_t count) {
#if defined(LANES_AVX512)
    return bits<Floats>(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), from));
#else
    Floats values{};
    std::memcpy(&values, from, static_cast<size_t>(count) * sizeof(float));
    return values;
#endif
}

LANES_INLINE Halves load_halves_part(const bf16 *from, int64_t count) {
#if defined(LANES_AVX512)
    return bits<Halves>(_mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << count) - 1), from));
#else
    Halves values{};
    std::memcpy(&values, from, static_cast<size_t>(count) * sizeof(bf16));
    return values;
#endif
}

LANES_INLINE Halves load_halves(const bf16 *from, int64_t count) {
    if (count < LANES) return load_halves_part(from, count);
    Halves values;
    std::memcpy(&values, from, sizeof values);
    return values;
}

LANES_INLINE Floats load_part(const bf16 *from, int64_t count) { return widen(load_halves_part(from, count)); }

LANES_INLINE void store_part(float *to, Floats values, int64_t count) {
#if defined(LANES_AVX512)
    _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << count) - 1), bits<__m512>(values));
#else
    for (int64_t i = 0; i < count; ++i) to[i] = values[i];
#endif
}

LANES_INLINE void store_part(bf16 *to, Halves halves, int64_t count) {
#if defined(LANES_AVX512)
    _mm256_mask_storeu_epi16(to, static_cast<__mmask16>((1u << count) - 1), bits<__m256i>(halves));
#else
    std::memcpy(to, &halves, static_cast<size_t>(count) * sizeof(bf16));
#endif
}

LANES_INLINE void store_part(bf16 *to, Floats values, int64_t count) { store_part(to, narrow(values), count); }

// --- Rows: vector after vector, the last one in part ------------------------------------------------------------------

template <typename T>
LANES_INLINE Floats load(const T *from, int64_t count) {
    return count == LANES ? load(from) : load_part(from, count);
}

template <typename T, typename Values>
LANES_INLINE void store(T *to, Values values, int64_t count) {
    if (count == LANES) store(to, values);
    else store_part(to, values, count);
}

// Calls each(place, how many numbers from there on) over `count` numbers.
template <typename Each>
LANES_INLINE void for_vectors(int64_t count, const Each &each) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) each(i, LANES);
    if (i < count) each(i, count - i);
}

// --- Sums over the lanes, always in the same order ----------------------------------------------------------------------

LANES_INLINE float sum(Floats values) {
#if defined(LANES_AVX512)
    const __m512 whole = bits<__m512>(values);
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(whole), _mm512_extractf32x8_ps(whole, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#else
    float part[LANES];
    std::memcpy(part, &values, sizeof part);
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; ++i) part[i] += part[i + width];
    return part[0];
#endif
}

// to[i] = sum(values[i]), for four vectors together, in the order of `sum`.
LANES_INLINE void sum4(const Floats *values, float *to) {
#if defined(LANES_AVX512)
    __m256 half[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        const __m512 whole = bits<__m512>(values[i]);
        half[i] = _mm256_add_ps(_mm512_castps512_ps256(whole), _mm512_extractf32x8_ps(whole, 1));
    }
    // Of each vector the lanes 0-3 and 4-7 side by side with another's, then added: lanes 0-3 of (a, b) and of (c, d).
    const auto low = [](__m256 a, __m256 b) { return _mm256_permute2f128_ps(a, b, 0x20); };
    const auto high = [](__m256 a, __m256 b) { return _mm256_permute2f128_ps(a, b, 0x31); };
    const __m256 ab = _mm256_add_ps(low(half[0], half[1]), high(half[0], half[1]));
    const __m256 cd = _mm256_add_ps(low(half[2], half[3]), high(half[2], half[3]));
    // lanes 0, 1 of a, c | b, d plus lanes 2, 3 of them
    const __m256 ac_bd = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
    // a, c | b, d in lanes 0 and 2 of each half
    const __m256 sums = _mm256_add_ps(ac_bd, _mm256_movehdup_ps(ac_bd));
    const __m128 ac = _mm256_castps256_ps128(sums), bd = _mm256_extractf128_ps(sums, 1);
    _mm_storeu_ps(to, _mm_shuffle_ps(_mm_unpacklo_ps(ac, bd), _mm_unpackhi_ps(ac, bd), 0x44));
#else
    for (int i = 0; i < 4; ++i) to[i] = sum(values[i]);
#endif
}

LANES_INLINE float largest(Floats values) {
    float found = values[0];
    for (int lane = 1; lane < LANES; ++lane) found = values[lane] > found ? values[lane] : found;
    return found;
}

LANES_INLINE Floats root(Floats values) {
#if defined(LANES_AVX512)
    return bits<Floats>(_mm512_sqrt_ps(bits<__m512>(values)));
#elif defined(__AVX2__)
    return bits<Floats>(_mm256_sqrt_ps(bits<__m256>(values)));
#else
    for (int lane = 0; lane < LANES; ++lane) values[lane] = __builtin_sqrtf(values[lane]);
    return values;
#endif
}

LANES_INLINE Floats least(Floats a, Floats b) { return a < b ? a : b; }
LANES_INLINE Floats most(Floats a, Floats b) { return a > b ? a : b; }

// --- Dot products of bf16, of 16-bit integers and of bytes ----------------------------------------------------------

#if defined(LANES_BF16_PAIRS)
LANES_INLINE Floats add_pairs(Floats sum, Words a, Words b) {
    return bits<Floats>(_mm512_dpbf16_ps(bits<__m512>(sum), bits<__m512bh>(a), bits<__m512bh>(b)));
}
#endif

// sum + a0 * b0 + a1 * b1 in each lane, where a 32-bit lane holds two bf16 numbers, the earlier one in its low half.
LANES_INLINE Floats add_products(Floats sum, Words a, Words b) {
#if defined(LANES_BF16_DOT)
    return add_pairs(sum, a, b);
#else
    sum += bits<Floats>(a << 16) * bits<Floats>(b << 16);
    return sum + bits<Floats>(a & 0xffff0000u) * bits<Floats>(b & 0xffff0000u);
#endif
}

// The same of numbers of 16 bits, summed as 32.
LANES_INLINE Ints add_products(Ints sum, Ints a, Ints b) {
#if defined(LANES_AVX512)
    return sum + bits<Ints>(_mm512_madd_epi16(bits<__m512i>(a), bits<__m512i>(b)));
#elif defined(__AVX2__)
    return sum + bits<Ints>(_mm256_madd_epi16(bits<__m256i>(a), bits<__m256i>(b)));
#else
    return sum + ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16);
#endif
}

// sum + a0 * b0 + ... + a3 * b3 in each lane, of bytes: a's without sign, b's with one.
LANES_INLINE Ints add_byte_products(Ints sum, Words a, Words b) {
#if defined(LANES_BYTE_DOT)
    return bits<Ints>(_mm512_dpbusd_epi32(bits<__m512i>(sum), bits<__m512i>(a), bits<__m512i>(b)));
#else
    // Bytes 0 and 2, then 1 and 3, as numbers of 16 bits.
    const Shorts with_sign = bits<Shorts>(b);
    sum = add_products(sum, bits<Ints>(a & 0x00ff00ffu), bits<Ints>((with_sign << 8) >> 8));
    return add_products(sum, bits<Ints>((a >> 8) & 0x00ff00ffu), bits<Ints>(with_sign >> 8));
#endif
}

// 2 * LANES bf16 numbers.
LANES_INLINE Words load_pairs(const bf16 *from) {
    Words values;
    std::memcpy(&values, from, sizeof values);
    return values;
}

// The first `count` of 2 * LANES bf16 numbers, the others zero.
LANES_INLINE Words load_pairs_part(const bf16 *from, int64_t count) {
#if defined(LANES_AVX512)
    return bits<Words>(_mm512_maskz_loadu_epi16(static_cast<__mmask32>((uint64_t{1} << count) - 1), from));
#else
    Words values{};
    std::memcpy(&values, from, static_cast<size_t>(count) * sizeof(bf16));
    return values;
#endif
}

// Two bf16 numbers in every lane.
LANES_INLINE Words all_pairs(const bf16 *from) {
    uint32_t pair;
    std::memcpy(&pair, from, sizeof pair);
    return Words{} + pair;
}

// --- Functions ------------------------------------------------------------------------------------------------------

// e^x, off by less than 2 units in the last place on [-87, 88] and bounded outside: 2^n * e^r with |r| <= ln(2) / 2.
// NaN gives NaN.
LANES_INLINE Floats exponential(Floats x) {
#if defined(LANES_AVX512)  // in both the second operand is the answer where x is NaN
    x = bits<Floats>(_mm512_min_ps(_mm512_set1_ps(88.0f), bits<__m512>(x)));
    x = bits<Floats>(_mm512_max_ps(_mm512_set1_ps(-87.0f), bits<__m512>(x)));
    const Floats n = bits<Floats>(_mm512_roundscale_ps(bits<__m512>(x * 1.44269504f), 0));
#else
    x = x < -87.0f ? all(-87.0f) : x > 88.0f ? all(88.0f) : x;
    const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    const Floats n = (x * 1.44269504f + magic) - magic;
#endif
    const Floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    Floats p = r * (1.0f / 5040) + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
#if defined(LANES_AVX512)
    return bits<Floats>(_mm512_scalef_ps(bits<__m512>(p), bits<__m512>(n)));
#else
    const Ints exponent = (__builtin_convertvector(n, Ints) + 127) << 23;
    return p * bits<Floats>(exponent);
#endif
}

// 1 / x to the last place or two, for 1 <= x < 2^127.
LANES_INLINE Floats reciprocal(Floats x) {
#if defined(LANES_AVX512)
    const Floats guess = bits<Floats>(_mm512_rcp14_ps(bits<__m512>(x)));
    return guess * (2.0f - x * guess);
#else
    return 1.0f / x;
#endif
}

LANES_INLINE Floats sigmoid(Floats x) { return reciprocal(1.0f + exponential(-x)); }
LANES_INLINE Floats silu(Floats x) { return x * sigmoid(x); }

}  // namespace lanes
