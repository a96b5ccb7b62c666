/* The static inline functions of DPDK that Rust cannot reach without a C compiler. */
#include "wrapper.h"

struct rte_mbuf *lb_mbuf_alloc(struct rte_mempool *pool) { return rte_pktmbuf_alloc(pool); }

void lb_mbuf_free(struct rte_mbuf *mbuf) { rte_pktmbuf_free(mbuf); }

int lb_errno(void) { return rte_errno; }
