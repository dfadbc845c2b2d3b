// Memory for one call and the thread that uses it.

#pragma once

#include <cstdint>
#include <cstdlib>

#include <omp.h>
#include <sys/mman.h>

namespace scratch {

// Asks for large pages below a large array that is about to be written whole: fresh memory of the gradients' size costs
// more in faults of small pages than in products.
inline void in_large_pages(void *data, int64_t bytes) {
#if defined(MADV_HUGEPAGE)
    constexpr int64_t PAGE = 4096, LARGE = 8 << 20;
    if (!data || bytes < LARGE) return;
    const int64_t skipped = -reinterpret_cast<intptr_t>(data) & (PAGE - 1);
    madvise(static_cast<char *>(data) + skipped, static_cast<size_t>((bytes - skipped) / PAGE * PAGE), MADV_HUGEPAGE);
#else
    (void)data, (void)bytes;
#endif
}

// One allocation that the end of its block frees; `data` is null where there was no memory.
class Memory {
  public:
    explicit Memory(int64_t bytes) : data(std::aligned_alloc(64, (static_cast<size_t>(bytes) + 127) / 64 * 64)) {
        in_large_pages(data, bytes);
    }
    ~Memory() { std::free(data); }
    Memory(const Memory &) = delete;
    Memory &operator=(const Memory &) = delete;
    template <typename T>
    T *at(int64_t byte) const {
        return reinterpret_cast<T *>(static_cast<char *>(data) + byte);
    }
    void *const data;
};

inline int64_t thread_number() { return omp_get_thread_num(); }

constexpr int64_t aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }

// Hands out parts of an allocation; without one it only counts, so that the same code gives both the size and the places.
class Parts {
  public:
    explicit Parts(char *base = nullptr) : base_(base) {}
    template <typename T>
    T *take(int64_t count) {
        T *part = base_ ? reinterpret_cast<T *>(base_ + bytes) : nullptr;
        bytes += aligned(count * static_cast<int64_t>(sizeof(T)));
        return part;
    }
    int64_t bytes = 0;

  private:
    char *base_;
};

}  // namespace scratch
