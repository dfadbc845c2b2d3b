// Distribution of tiles of rows over a processor's registers, for every kind of product.

#pragma once

#include <type_traits>

#include "serving/products.h"

namespace serve {

constexpr int VECTORS = HALF / lanes::LANES;  // of one unit of weights

template <typename T>
LANES_INLINE T load_as(const void *from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

// Four bytes of a row in every lane.
LANES_INLINE lanes::Words all_of(const void *from) { return lanes::held(lanes::Words{} + load_as<uint32_t>(from)); }

// How far weights are prefetched, by the vectors that a tile computes from each unit of them. With many, the processor sees
// no further than the next few units, so memory has to be asked early. With a few, the loads of many units are in flight
// at once and hardware prefetches what they read: other prefetches only get in its way, but for one row of whole numbers.
// Hardware does not follow tiles that read one unit of each group at a time.
constexpr int FEW_VECTORS = 4, FEWEST_VECTORS = 2;
template <typename Sum>
constexpr int64_t ahead_of(int n_vectors, int n_units) {
    if (n_units < 2 || n_vectors > FEW_VECTORS) return AHEAD;
    return std::is_same_v<Sum, lanes::Ints> && n_vectors <= FEWEST_VECTORS ? AHEAD_OF_FEWEST : 0;
}

// Numbers of rows between these compute some row twice: that is cheaper than more code.
static constexpr int WIDTHS[] = {1, 2, 3, 4, 6, 8, 12};
static_assert(WIDTHS[6] == TILE_ROWS, "the widest tile has all rows");

// `Product` has SUMS, the vectors of sums that fit into registers, and sum<ROWS, UNITS>(rows, weights, first unit, tile).
template <typename Product>
struct Tiles {
    typedef typename Product::Weights Weights;
    typedef void (*SumRows)(const char *const *, const Weights &, Tile);

    // The most rows that can be summed together.
    static constexpr int most_rows() {
        int most = 1;
        for (int width : WIDTHS)
            if (width * VECTORS <= Product::SUMS) most = width;
        return most;
    }

    template <int ROWS>
    static void sum_rows(const char *const *rows, const Weights &weights, Tile tile) {
        if constexpr (ROWS * 2 * VECTORS <= Product::SUMS) {
            Product::template sum<ROWS, 2>(rows, weights, 0, tile);
        } else {
            Product::template sum<ROWS, 1>(rows, weights, 0, tile);
            Product::template sum<ROWS, 1>(rows, weights, 1, tile);
        }
    }

    template <int ROWS>
    static constexpr SumRows where_fits() {
        if constexpr (ROWS <= most_rows()) return sum_rows<ROWS>;
        return nullptr;
    }

    static void multiply(const char *const *rows, int n_rows, const Weights &weights, Tile tile) {
        static constexpr SumRows SUMS[] = {where_fits<1>(), where_fits<2>(), where_fits<3>(), where_fits<4>(),
                                           where_fits<6>(), where_fits<8>(), where_fits<12>()};
        int n_blocks = (n_rows + most_rows() - 1) / most_rows();
        for (int first = 0; first < n_rows; --n_blocks) {
            const int count = (n_rows - first + n_blocks - 1) / n_blocks;
            int width = 0;
            while (WIDTHS[width] < count) ++width;
            const char *filled[TILE_ROWS];
            for (int i = 0; i < WIDTHS[width]; ++i) filled[i] = rows[first + (i < count ? i : count - 1)];
            SUMS[width](filled, weights, tile + first);
            first += count;
        }
    }
};

}  // namespace serve
