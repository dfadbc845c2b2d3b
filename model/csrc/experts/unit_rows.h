// Rows that all panels of a call share, as units.

#pragma once

#include "panels.h"
#include "scratch.h"

namespace experts {

using namespace tiles;

// n rows of k numbers that lie one after the other: themselves, or where bf16 is widened copies. `widen_all` makes these.
template <typename T>
class UnitRows {
  public:
    UnitRows(const T *rows, int64_t n, int64_t k) : rows_(rows), n_(n), k_(k), wide_(wide_bytes<T>(n, k)) {}

    bool has_memory() const { return wide_.data; }

    // Called by all threads of a parallel region, which share the rows.
    void widen_all() const {
        if constexpr (!std::is_same_v<T, Unit<T>>) {
#pragma omp for
            for (int64_t r = 0; r < n_; ++r) widen(rows_ + r * k_, k_, wide_.template at<float>(0) + r * wide_stride(k_));
        }
    }

    const Unit<T> *operator()(int64_t r) const {
        if constexpr (std::is_same_v<T, Unit<T>>) return rows_ + r * k_;
        else return wide_.template at<float>(0) + r * wide_stride(k_);
    }

  private:
    const T *rows_;
    int64_t n_, k_;
    scratch::Memory wide_;
};

}  // namespace experts
