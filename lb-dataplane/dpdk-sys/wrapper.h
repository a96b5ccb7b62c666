/* What the binding is generated from. See src/lib.rs. */
#include <stddef.h>
#include <stdint.h>

#include <rte_bus.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mbuf_pool_ops.h>
#include <rte_mempool.h>
#include <rte_version.h>

/* Offsets of fields of struct rte_mbuf, in bytes. */
static const size_t LB_MBUF_BUF_ADDR = offsetof(struct rte_mbuf, buf_addr);
static const size_t LB_MBUF_DATA_OFF = offsetof(struct rte_mbuf, data_off);
static const size_t LB_MBUF_NB_SEGS = offsetof(struct rte_mbuf, nb_segs);
static const size_t LB_MBUF_PORT = offsetof(struct rte_mbuf, port);
static const size_t LB_MBUF_OL_FLAGS = offsetof(struct rte_mbuf, ol_flags);
static const size_t LB_MBUF_PKT_LEN = offsetof(struct rte_mbuf, pkt_len);
static const size_t LB_MBUF_DATA_LEN = offsetof(struct rte_mbuf, data_len);
static const size_t LB_MBUF_BUF_LEN = offsetof(struct rte_mbuf, buf_len);
static const size_t LB_MBUF_TX_OFFLOAD = offsetof(struct rte_mbuf, tx_offload);
static const size_t LB_MBUF_SIZE = sizeof(struct rte_mbuf);
static const size_t LB_MBUF_HEADROOM = RTE_PKTMBUF_HEADROOM;

/* Bit positions in rte_mbuf.tx_offload. */
static const uint32_t LB_TX_L3_LEN_SHIFT = RTE_MBUF_L2_LEN_BITS;

static const uint32_t LB_MEMPOOL_NO_IOVA_CONTIG = RTE_MEMPOOL_F_NO_IOVA_CONTIG;

static const uint64_t LB_RX_IP_CKSUM_MASK = RTE_MBUF_F_RX_IP_CKSUM_MASK;
static const uint64_t LB_RX_IP_CKSUM_GOOD = RTE_MBUF_F_RX_IP_CKSUM_GOOD;
static const uint64_t LB_RX_IP_CKSUM_BAD = RTE_MBUF_F_RX_IP_CKSUM_BAD;
static const uint64_t LB_RX_L4_CKSUM_MASK = RTE_MBUF_F_RX_L4_CKSUM_MASK;
static const uint64_t LB_RX_L4_CKSUM_GOOD = RTE_MBUF_F_RX_L4_CKSUM_GOOD;
static const uint64_t LB_RX_L4_CKSUM_BAD = RTE_MBUF_F_RX_L4_CKSUM_BAD;
static const uint64_t LB_TX_IPV4 = RTE_MBUF_F_TX_IPV4;
static const uint64_t LB_TX_IPV6 = RTE_MBUF_F_TX_IPV6;
static const uint64_t LB_TX_TCP_CKSUM = RTE_MBUF_F_TX_TCP_CKSUM;
static const uint64_t LB_TX_UDP_CKSUM = RTE_MBUF_F_TX_UDP_CKSUM;
static const uint64_t LB_TX_L4_MASK = RTE_MBUF_F_TX_L4_MASK;

static const uint64_t LB_RX_OFFLOAD_IPV4_CKSUM = RTE_ETH_RX_OFFLOAD_IPV4_CKSUM;
static const uint64_t LB_RX_OFFLOAD_UDP_CKSUM = RTE_ETH_RX_OFFLOAD_UDP_CKSUM;
static const uint64_t LB_RX_OFFLOAD_TCP_CKSUM = RTE_ETH_RX_OFFLOAD_TCP_CKSUM;
static const uint64_t LB_TX_OFFLOAD_UDP_CKSUM = RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
static const uint64_t LB_TX_OFFLOAD_TCP_CKSUM = RTE_ETH_TX_OFFLOAD_TCP_CKSUM;
static const uint64_t LB_TX_OFFLOAD_MBUF_FAST_FREE = RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE;
/* Spreads over queues: IPv4 and IPv6, by address and by UDP and TCP port. */
static const uint64_t LB_RSS_L3_L4 = RTE_ETH_RSS_IP | RTE_ETH_RSS_UDP | RTE_ETH_RSS_TCP;
/* Of these, what must be hashed with its ports. */
static const uint64_t LB_RSS_PORTS = RTE_ETH_RSS_NONFRAG_IPV4_TCP | RTE_ETH_RSS_NONFRAG_IPV4_UDP;
/* One end's fields alone. The highest bit of all is more than the generator takes for a constant. */
static const uint64_t LB_RSS_SOURCE_ONLY_HALVED = (RTE_ETH_RSS_L3_SRC_ONLY | RTE_ETH_RSS_L4_SRC_ONLY) >> 1;
static const uint64_t LB_RSS_DESTINATION_ONLY = RTE_ETH_RSS_L3_DST_ONLY | RTE_ETH_RSS_L4_DST_ONLY;
static const uint32_t LB_MQ_RX_RSS = RTE_ETH_MQ_RX_RSS;
static const uint32_t LB_MQ_RX_NONE = RTE_ETH_MQ_RX_NONE;

/* A new buffer, or NULL. */
struct rte_mbuf *lb_mbuf_alloc(struct rte_mempool *pool);
/* Frees a buffer, chained or not. */
void lb_mbuf_free(struct rte_mbuf *mbuf);
/* rte_errno of this thread. */
int lb_errno(void);
