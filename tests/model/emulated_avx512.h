// The instructions of AVX-512 with bf16 on a processor without them, by SIMDe (Debian: libsimde-dev), for tests of what
// kernels compute with them: included before everything else.

#pragma once

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

#include <cstdint>
#include <cstring>

// Only now: SIMDe would call what these name.
#define __AVX512F__ 1
#define __AVX512BW__ 1
#define __AVX512DQ__ 1
#define __AVX512VL__ 1
#define __AVX512BF16__ 1

namespace emulated {

// SIMDe reads and writes masked vectors whole, beyond an array's end. All masks of the kernels have their ones first.
template <typename Vector, int BYTES>
inline Vector load(uint64_t mask, const void *from) {
    Vector values{};
    std::memcpy(&values, from, static_cast<size_t>(__builtin_popcountll(mask)) * BYTES);
    return values;
}

template <typename Vector, int BYTES>
inline void store(void *to, uint64_t mask, Vector values) {
    std::memcpy(to, &values, static_cast<size_t>(__builtin_popcountll(mask)) * BYTES);
}

// To the nearest, ties to even; subnormal numbers become zero.
inline __m256bh narrow(__m512 values) {
    uint32_t words[16];
    uint16_t halves[16];
    std::memcpy(words, &values, sizeof words);
    for (int i = 0; i < 16; ++i) {
        const uint32_t word = words[i], magnitude = word & 0x7fffffffu;
        const uint32_t rounded = word + 0x7fffu + ((word >> 16) & 1u);
        const uint32_t wide = magnitude > 0x7f800000u ? word | 0x400000u : magnitude < 0x800000u ? word & 0x80000000u : rounded;
        halves[i] = static_cast<uint16_t>(wide >> 16);
    }
    __m256bh narrowed;
    std::memcpy(&narrowed, halves, sizeof halves);
    return narrowed;
}

}  // namespace emulated

#undef _mm512_maskz_loadu_ps
#undef _mm256_maskz_loadu_epi16
#undef _mm512_maskz_loadu_epi16
#undef _mm512_mask_storeu_ps
#undef _mm256_mask_storeu_epi16
#define _mm512_maskz_loadu_ps(mask, from) emulated::load<__m512, 4>(mask, from)
#define _mm256_maskz_loadu_epi16(mask, from) emulated::load<__m256i, 2>(mask, from)
#define _mm512_maskz_loadu_epi16(mask, from) emulated::load<__m512i, 2>(mask, from)
#define _mm512_mask_storeu_ps(to, mask, values) emulated::store<__m512, 4>(to, mask, values)
#define _mm256_mask_storeu_epi16(to, mask, values) emulated::store<__m256i, 2>(to, mask, values)
#define _mm512_cvtneps_pbh(values) emulated::narrow(values)
