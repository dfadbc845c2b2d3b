// How fast one core multiplies in registers, for `model/kernel_rates.py`: operations per second of the fastest of `turns`
// loops of about a millisecond.

#include <ctime>

#include "lanes.h"

namespace rates {

using namespace lanes;

constexpr int CHAINS = 12;  // sums that do not wait for one another: latency times units, and no more than registers
constexpr int64_t STEPS = 200000;

inline double seconds() {
    timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// `add(sum, a, b)` makes `operations` operations.
template <typename Add>
double fastest(int64_t turns, int64_t operations, Add add) {
    volatile uint32_t source = 0;  // not known to the compiler, and no subnormal number in either format
    [[maybe_unused]] volatile float wanted;  // what nothing reads would not be computed
    Words a = Words{} + source;
    const Words b = a;
    double best = 0;
    for (int64_t turn = 0; turn < turns; ++turn) {
        Floats sums[CHAINS];
        for (int i = 0; i < CHAINS; ++i) sums[i] = all(static_cast<float>(i));  // equal ones would be summed once
        const double begun = seconds();
        for (int64_t step = 0; step < STEPS / CHAINS; ++step) {
            a = held(a);  // else the product would be made once
#pragma GCC unroll 16
            for (int i = 0; i < CHAINS; ++i) sums[i] = add(sums[i], a, b);
        }
        for (int i = 0; i < CHAINS; ++i) wanted = sums[i][0];
        const double rate = static_cast<double>(STEPS / CHAINS * CHAINS * operations) / (seconds() - begun);
        best = rate > best ? rate : best;
    }
    return best;
}

}  // namespace rates

LANES_EXPORT double rates_fma(int64_t turns) {
    using namespace lanes;
    return rates::fastest(turns, 2 * LANES, [](Floats sum, Words a, Words b) {
        return sum + bits<Floats>(a) * bits<Floats>(b);
    });
}

// 0 where the processor has no such instruction.
LANES_EXPORT double rates_dot(int64_t turns) {
#if defined(LANES_BF16_PAIRS)
    using namespace lanes;
    return rates::fastest(turns, 4 * LANES, [](Floats sum, Words a, Words b) { return add_pairs(sum, a, b); });
#else
    return static_cast<double>(0 * turns);
#endif
}
