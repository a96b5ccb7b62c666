//! DPDK's ports: what they can do, how they are set up, how workers receive and send.

use std::ffi::{CStr, c_void};
use std::os::fd::{BorrowedFd, RawFd};
use std::ptr::null;

use dpdk_sys as sys;
use lb_core::ids::PortId;
use lb_core::path::{BURST, Burst};
use lb_core::rss::{KEY_LEN, Lack, Rss, Spread};
use lb_core::tables::Mac;

use super::eal::Eal;
use super::mbuf::{Mbuf, MbufPool};
use super::socket;
use super::steering::{self, Can};
use crate::config::PortConfig;
use crate::device::Device;
use crate::error::{PortProblem, StartError};
use crate::{Place, place, preflight};

/// Descriptors of a receive and of a transmit queue, where the port does not want others.
pub(crate) const DESCRIPTORS: u16 = 1024;

/// What a port is, as `lbctl ports` shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortInfo {
    pub id: PortId,
    pub name: String,
    pub device: String,
    /// DPDK's name of the driver: `net_af_xdp`.
    pub driver: String,
    pub mac: Mac,
    pub mtu: u16,
    /// The link at the start, in words: `Link up at 10 Gbps FDX Autoneg`.
    pub link: String,
    /// Pairs of a receive and a transmit queue: one a worker, or fewer when the port has not so many.
    pub queues: u16,
    pub spread: Spread,
    /// What the port does for us, in words: `rx ipv4 checksum`.
    pub offloads: Vec<&'static str>,
    /// How its driver receives bursts, and how it sends them, in its own words: `Vector AVX2`; empty: it says nothing.
    pub bursts: [String; 2],
    /// The number of an XDP program that an earlier run left on the interface of an AF_XDP port, as it was killed. The port
    /// has taken it over, and a clean stop removes it.
    pub xdp_left: Option<u32>,
}

/// What a port counts itself, and its link now.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PortStats {
    pub rx_packets: u64,
    pub tx_packets: u64,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    /// Came in while the receive queue was full.
    pub rx_missed: u64,
    pub rx_errors: u64,
    pub tx_errors: u64,
    /// Came in while no buffer was free.
    pub rx_no_buffer: u64,
    pub link: String,
}

/// What a port is to be.
pub(crate) struct Setup<'a> {
    /// It gets so many pairs of queues at most.
    pub(crate) workers: u16,
    pub(crate) spread: Spread,
    /// By which it spreads, if by one end.
    pub(crate) rss: Option<&'a Rss>,
    /// It is to have receive interrupts, where they can be had.
    pub(crate) interrupts: bool,
    /// For what it receives.
    pub(crate) pool: &'a MbufPool,
    /// Where its descriptors are to be.
    pub(crate) node: Option<u32>,
    /// No buffer that it sends is of another pool.
    pub(crate) has_all: bool,
}

/// A port that DPDK has found. Dropping it stops and closes it.
pub(crate) struct Port {
    /// DPDK's number, not ours.
    number: u16,
    pub(crate) info: PortInfo,
    pub(crate) writes_l4: bool,
    /// All its queues have receive interrupts.
    pub(crate) has_interrupts: bool,
    is_promiscuous: bool,
    /// By which it hashes, where that is ours to say: drivers keep a pointer to it.
    key: Vec<u8>,
}

/// The offloads that are used where a port has them, with their names in [`PortInfo`].
const RX_OFFLOADS: [(u64, &str); 3] = [
    (sys::LB_RX_OFFLOAD_IPV4_CKSUM, "rx ipv4 checksum"),
    (sys::LB_RX_OFFLOAD_UDP_CKSUM, "rx udp checksum"),
    (sys::LB_RX_OFFLOAD_TCP_CKSUM, "rx tcp checksum"),
];
const TX_OFFLOADS: [(u64, &str); 3] = [
    (sys::LB_TX_OFFLOAD_UDP_CKSUM, "tx udp checksum"),
    (sys::LB_TX_OFFLOAD_TCP_CKSUM, "tx tcp checksum"),
    // No buffer is shared; this one demands, too, that all come from one pool.
    (sys::LB_TX_OFFLOAD_MBUF_FAST_FREE, "tx fast free"),
];
const TX_L4: u64 = sys::LB_TX_OFFLOAD_UDP_CKSUM | sys::LB_TX_OFFLOAD_TCP_CKSUM;

fn chosen(offloads: &[(u64, &'static str)], can: u64) -> (u64, Vec<&'static str>) {
    let had = offloads.iter().filter(|(bit, _)| can & bit == *bit);
    had.fold((0, Vec::new()), |(bits, mut names), &(bit, name)| {
        names.push(name);
        (bits | bit, names)
    })
}

/// What DPDK says of a step.
fn step(eal: &mut Eal, name: &'static str, outcome: i32) -> Result<(), PortProblem> {
    match outcome {
        0.. => Ok(()),
        _ => Err(PortProblem::Setup { step: name, reason: eal.reason(outcome) }),
    }
}

impl Port {
    /// Sets up and starts DPDK's port `number`.
    pub(crate) fn start(
        eal: &mut Eal,
        number: u16,
        id: PortId,
        config: &PortConfig,
        setup: &Setup<'_>,
    ) -> Result<Port, StartError> {
        eal.forget_log();
        let info = PortInfo {
            id,
            name: config.name.clone(),
            device: config.device.clone(),
            driver: String::new(),
            mac: Mac::default(),
            mtu: config.mtu,
            link: String::new(),
            queues: 0,
            spread: setup.spread,
            offloads: Vec::new(),
            bursts: Default::default(),
            xdp_left: preflight::xdp_left(&config.device),
        };
        let mut port = Port {
            number,
            info,
            writes_l4: false,
            has_interrupts: false,
            is_promiscuous: false,
            key: Vec::new(),
        };
        let mut outcome = port.set_up(eal, setup);
        if setup.interrupts && outcome.is_err() {
            // Some drivers do not start with what they cannot have, with a single vector for example.
            outcome = port.set_up(eal, &Setup { interrupts: false, ..*setup });
        }
        outcome.map_err(|problem| StartError::Port {
            port: config.name.clone(),
            device: config.device.clone(),
            problem,
        })?;
        Ok(port)
    }

    fn set_up(&mut self, eal: &mut Eal, setup: &Setup<'_>) -> Result<(), PortProblem> {
        let Setup { workers, rss, interrupts, .. } = *setup;
        let (number, mtu) = (self.number, self.info.mtu);
        let device = self.ask(eal)?;
        let most = device.max_rx_queues.min(device.max_tx_queues).max(1);
        let queues = if self.info.spread == Spread::OneQueue { 1 } else { workers.min(most) };
        let mut conf = sys::rte_eth_conf::default();
        let (rx, mut names) = chosen(&RX_OFFLOADS, device.rx_offload_capa);
        let fast_free = if setup.has_all { 0 } else { sys::LB_TX_OFFLOAD_MBUF_FAST_FREE };
        let (tx, tx_names) = chosen(&TX_OFFLOADS, device.tx_offload_capa & !fast_free);
        names.extend(tx_names);
        // AF_PACKET names an Ethernet frame as its longest, whatever its rings hold, and passes on what they hold
        // (`preflight` has looked at that).
        conf.rxmode.mtu = u32::from(if self.info.driver == "net_af_packet" { mtu.min(1500) } else { mtu });
        conf.rxmode.offloads = rx;
        conf.txmode.offloads = tx;
        let types = steering::types(device.flow_type_rss_offloads, self.info.spread);
        conf.rxmode.mq_mode = if types == 0 { sys::LB_MQ_RX_NONE } else { sys::LB_MQ_RX_RSS };
        conf.rx_adv_conf.rss_conf.rss_hf = types;
        // Beyond what is hashed of any packet a longer key is zero.
        self.key = vec![0; device.hash_key_size.into()];
        let by_one_end = match self.info.spread {
            Spread::OneEnd(end, _) => rss.map(|rss| (end, rss)),
            _ => None,
        };
        if let Some((end, rss)) = by_one_end {
            self.key[..KEY_LEN].copy_from_slice(rss.key(end));
            conf.rx_adv_conf.rss_conf.rss_key = self.key.as_mut_ptr();
            conf.rx_adv_conf.rss_conf.rss_key_len = device.hash_key_size;
        }
        conf.intr_conf.set_rxq(interrupts.into());
        // SAFETY: DPDK copies the configuration; the key stays where it is until the port is closed.
        let outcome = unsafe { sys::rte_eth_dev_configure(number, queues, queues, &conf) };
        step(eal, "configuring", outcome)?;
        self.set_up_queues(eal, queues, setup)?;
        // SAFETY: DPDK writes one address, of six bytes.
        let outcome = unsafe { sys::rte_eth_macaddr_get(number, (&raw mut self.info.mac).cast()) };
        step(eal, "reading the MAC address", outcome)?;
        // SAFETY: no memory is involved.
        step(eal, "starting", unsafe { sys::rte_eth_dev_start(number) })?;
        // IPv6 neighbours and routing daemons speak by multicast. A failure (the driver has neither) is as good as it
        // gets: such drivers filter nothing.
        // SAFETY: no memory is involved.
        self.is_promiscuous = unsafe {
            sys::rte_eth_allmulticast_enable(number) != 0 && sys::rte_eth_promiscuous_enable(number) == 0
        };
        self.info.queues = queues;
        if let Some((_, rss)) = by_one_end {
            let table = self.table(rss, workers, device.reta_size);
            if !(self.set_table(&table) && self.has_kept(&table, types)) {
                self.info.spread = Spread::BothEnds(Lack::Obedience);
            }
        }
        if types != 0 {
            names.push("rss");
        }
        self.has_interrupts = interrupts && (0..queues).all(|queue| interrupt(number, queue).is_some());
        if self.has_interrupts {
            names.push("rx interrupt");
        }
        self.info.offloads = names;
        self.info.bursts = self.bursts();
        self.info.link = self.link();
        self.writes_l4 = tx & TX_L4 == TX_L4;
        Ok(())
    }

    /// How the driver moves bursts at the first pair of queues.
    fn bursts(&self) -> [String; 2] {
        [sys::rte_eth_rx_burst_mode_get, sys::rte_eth_tx_burst_mode_get].map(|get| {
            let mut mode = sys::rte_eth_burst_mode::default();
            // SAFETY: DPDK writes one rte_eth_burst_mode, whose text ends with a zero; the port has a pair of queues.
            unsafe {
                if get(self.number, 0, &mut mode) != 0 {
                    return String::new();
                }
                CStr::from_ptr(mode.info.as_ptr()).to_string_lossy().into_owned()
            }
        })
    }

    /// What the device can do, and whether it can have the port's MTU.
    fn ask(&mut self, eal: &mut Eal) -> Result<sys::rte_eth_dev_info, PortProblem> {
        let mut device = sys::rte_eth_dev_info::default();
        // SAFETY: DPDK writes one rte_eth_dev_info.
        let outcome = unsafe { sys::rte_eth_dev_info_get(self.number, &mut device) };
        step(eal, "asking the device what it can do", outcome)?;
        // SAFETY: a static string of the driver, when there is one.
        unsafe {
            if !device.driver_name.is_null() {
                self.info.driver = CStr::from_ptr(device.driver_name).to_string_lossy().into_owned();
            }
        }
        let mtu = self.info.mtu;
        if mtu < device.min_mtu || mtu > device.max_mtu {
            return Err(PortProblem::Mtu { mtu, least: device.min_mtu, most: device.max_mtu });
        }
        Ok(device)
    }

    fn set_up_queues(&self, eal: &mut Eal, queues: u16, setup: &Setup<'_>) -> Result<(), PortProblem> {
        let Setup { pool, node, .. } = *setup;
        let number = self.number;
        let (mut rx_descriptors, mut tx_descriptors) = (DESCRIPTORS, DESCRIPTORS);
        // SAFETY: DPDK reads and writes the two numbers.
        let outcome = unsafe {
            sys::rte_eth_dev_adjust_nb_rx_tx_desc(number, &mut rx_descriptors, &mut tx_descriptors)
        };
        step(eal, "choosing the queues' lengths", outcome)?;
        let near = socket(node).cast_unsigned();
        for queue in 0..queues {
            // SAFETY: null asks for the driver's defaults; the pool lives until the port is closed.
            let outcome = unsafe {
                let outcome =
                    sys::rte_eth_rx_queue_setup(number, queue, rx_descriptors, near, null(), pool.as_ptr());
                if outcome < 0 {
                    outcome
                } else {
                    sys::rte_eth_tx_queue_setup(number, queue, tx_descriptors, near, null())
                }
            };
            if outcome < 0 {
                // AF_XDP's driver says no more than that there is no socket.
                let is_exclusive = self.info.driver == "net_af_xdp";
                let hint = if is_exclusive { ", another process may hold it" } else { "" };
                return Err(PortProblem::Queue { queue, hint, reason: eal.reason(outcome) });
            }
        }
        Ok(())
    }

    /// The queue of each place of a table.
    fn table(&self, rss: &Rss, workers: u16, places: u16) -> Vec<u16> {
        let queue = |index| {
            let worker = rss.worker_at(index);
            match place(worker.index(), workers.into(), self.info.id.index(), self.info.queues.into()) {
                Place::Queue(queue) => queue,
                Place::Worker(_) => unreachable!("there is a queue for each worker"),
            }
        };
        (0..usize::from(places)).map(queue).collect()
    }

    fn set_table(&self, table: &[u16]) -> bool {
        let mut groups = groups(table.len());
        for (group, queues) in groups.iter_mut().zip(table.chunks(GROUP)) {
            group.reta[..queues.len()].copy_from_slice(queues);
        }
        // SAFETY: there are as many groups as so many places need, and DPDK reads them.
        unsafe { sys::rte_eth_dev_rss_reta_update(self.number, groups.as_mut_ptr(), table.len() as u16) == 0 }
    }

    /// Whether the driver says that it hashes such packets by our key, and has such a table.
    fn has_kept(&self, table: &[u16], types: u64) -> bool {
        let mut room = vec![0; self.key.len()];
        let mut conf = sys::rte_eth_rss_conf {
            rss_key: room.as_mut_ptr(),
            rss_key_len: room.len() as u8,
            ..Default::default()
        };
        let mut groups = groups(table.len());
        // SAFETY: DPDK writes a key to where there is room for one, and the groups that it is given.
        let is_told = unsafe {
            sys::rte_eth_dev_rss_hash_conf_get(self.number, &mut conf) == 0
                && sys::rte_eth_dev_rss_reta_query(self.number, groups.as_mut_ptr(), table.len() as u16) == 0
        };
        let needed = steering::needed(types);
        is_told
            && conf.rss_hf & needed == needed
            && room == self.key
            && groups.iter().zip(table.chunks(GROUP)).all(|(group, queues)| group.reta.starts_with(queues))
    }

    /// One pair of queues of the port, for one worker. `index` is below [`PortInfo::queues`], each asked for once.
    pub(crate) fn queue(&self, index: u16) -> PortQueue {
        assert!(index < self.info.queues, "queue {index} of {}", self.info.queues);
        // SAFETY: the port is started, so that its entry is filled, and does not change until it is stopped.
        let entry = unsafe { &sys::rte_eth_fp_ops[usize::from(self.number)] };
        // SAFETY: the arrays of queues are as long as RTE_MAX_QUEUES_PER_PORT, and this queue was set up.
        let (rx_queue, tx_queue) =
            unsafe { (*entry.rxq.data.add(usize::from(index)), *entry.txq.data.add(usize::from(index))) };
        PortQueue {
            receive: entry.rx_pkt_burst.expect("a started port receives"),
            transmit: entry.tx_pkt_burst.expect("a started port sends"),
            // Drivers that need to see a packet before they offload its checksum.
            prepare: entry.tx_pkt_prepare.filter(|_| self.writes_l4),
            rx_queue,
            tx_queue,
            port: self.info.id,
            number: self.number,
            index,
            interrupt: if self.has_interrupts { interrupt(self.number, index) } else { None },
        }
    }

    pub(crate) fn stats(&self) -> PortStats {
        let mut stats = sys::rte_eth_stats::default();
        // SAFETY: DPDK writes one rte_eth_stats; on failure it stays zero.
        unsafe { sys::rte_eth_stats_get(self.number, &mut stats) };
        PortStats {
            rx_packets: stats.ipackets,
            tx_packets: stats.opackets,
            rx_bytes: stats.ibytes,
            tx_bytes: stats.obytes,
            rx_missed: stats.imissed,
            rx_errors: stats.ierrors,
            tx_errors: stats.oerrors,
            rx_no_buffer: stats.rx_nombuf,
            link: self.link(),
        }
    }

    /// The link, in DPDK's words. An interface's is asked of the kernel: drivers that use one say that it is up always.
    fn link(&self) -> String {
        match preflight::interface(&self.info.device) {
            Some(interface) if crate::link::is_up(interface) => LINK_UP.to_owned(),
            Some(_) => "Link down".to_owned(),
            None => link(self.number),
        }
    }

    /// Whether it has a link.
    pub(crate) fn is_up(&self) -> bool {
        self.link().starts_with(LINK_UP)
    }
}

/// What DPDK's words for a link that is up begin with.
const LINK_UP: &str = "Link up";

/// The file of a queue's receive interrupt, of a port that was started with them.
///
/// Some drivers have nothing to arm (`net_tap`): their files can be read whenever packets come.
fn interrupt(number: u16, queue: u16) -> Option<RawFd> {
    // SAFETY: no memory is involved.
    unsafe {
        let file = sys::rte_eth_dev_rx_intr_ctl_q_get_fd(number, queue);
        if file < 0 {
            return None;
        }
        match sys::rte_eth_dev_rx_intr_enable(number, queue) {
            0 => sys::rte_eth_dev_rx_intr_disable(number, queue),
            outcome if outcome == -libc::ENOTSUP => 0,
            _ => return None,
        };
        Some(file)
    }
}

/// Places of a table that DPDK takes at a time.
const GROUP: usize = sys::RTE_ETH_RETA_GROUP_SIZE as usize;

/// Room for a table of so many places, all of which are meant.
fn groups(places: usize) -> Vec<sys::rte_eth_rss_reta_entry64> {
    let mask = |at: usize| u64::MAX >> (GROUP - (places - at).min(GROUP));
    let group = |at| sys::rte_eth_rss_reta_entry64 { mask: mask(at), ..Default::default() };
    (0..places).step_by(GROUP).map(group).collect()
}

/// What the device behind DPDK's port `number` says that it can do.
pub(crate) fn can(number: u16) -> Can {
    let mut device = sys::rte_eth_dev_info::default();
    // SAFETY: DPDK writes one rte_eth_dev_info, with a static string of the driver, when there is one. On failure all stays zero, and
    // setting the port up says why.
    let driver = unsafe {
        sys::rte_eth_dev_info_get(number, &mut device);
        let name = device.driver_name;
        if name.is_null() { String::new() } else { CStr::from_ptr(name).to_string_lossy().into_owned() }
    };
    Can {
        queues: device.max_rx_queues.min(device.max_tx_queues).max(1),
        types: device.flow_type_rss_offloads,
        key_len: device.hash_key_size,
        places: device.reta_size,
        by_itself: spreads_by_itself(&driver),
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        // SAFETY: no worker uses its queues any more (order of fields in `Dataplane`).
        unsafe {
            if self.is_promiscuous {
                sys::rte_eth_promiscuous_disable(self.number);
            }
            sys::rte_eth_dev_stop(self.number);
            sys::rte_eth_dev_close(self.number);
        }
    }
}

/// Drivers that spread packets over their queues without RSS: the kernel does (AF_PACKET's fanout, the queues of the
/// interface under AF_XDP), the host does (virtio by the queue that a flow's packets were sent by, Google's gve by its own RSS), or nothing
/// real comes in (null).
fn spreads_by_itself(driver: &str) -> bool {
    let kernel = ["net_af_packet", "net_af_xdp", "net_tap", "net_pcap"];
    let host = ["net_virtio", "net_gve"];
    kernel.contains(&driver) || host.contains(&driver) || ["net_null", "net_ring"].contains(&driver)
}

/// The link in DPDK's words.
fn link(number: u16) -> String {
    let mut link = sys::rte_eth_link::default();
    let mut text = [0u8; sys::RTE_ETH_LINK_MAX_STR_LEN as usize];
    // SAFETY: DPDK writes one rte_eth_link, and into the text its length at most, a zero byte included.
    unsafe {
        sys::rte_eth_link_get_nowait(number, &mut link);
        sys::rte_eth_link_to_str(text.as_mut_ptr().cast(), text.len(), &link);
    }
    CStr::from_bytes_until_nul(&text).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
}

type BurstFunction = unsafe extern "C" fn(*mut c_void, *mut *mut sys::rte_mbuf, u16) -> u16;

/// A receive and a transmit queue of a port, one worker's own. It must be dropped before its port.
pub(crate) struct PortQueue {
    receive: BurstFunction,
    transmit: BurstFunction,
    prepare: Option<BurstFunction>,
    rx_queue: *mut c_void,
    tx_queue: *mut c_void,
    port: PortId,
    /// By which DPDK knows the queue.
    number: u16,
    index: u16,
    /// The file of its receive interrupt, which is the driver's.
    interrupt: Option<RawFd>,
}

// SAFETY: a queue is used by one thread at a time, whichever it is; this value is the only access.
unsafe impl Send for PortQueue {}

impl Device<Mbuf> for PortQueue {
    #[inline]
    fn receive(&mut self, burst: &mut Burst<Mbuf>) {
        debug_assert!(burst.is_empty());
        // SAFETY: the port is started; the burst is empty with room for BURST pointers, which is what an `Mbuf` is, and
        // the driver has written as many as it says, each now ours.
        unsafe {
            let received = (self.receive)(self.rx_queue, burst.as_mut_ptr().cast(), BURST as u16);
            burst.set_len(usize::from(received));
        }
        for packet in burst {
            packet.set_port(self.port);
        }
    }

    #[inline]
    fn transmit(&mut self, burst: &mut Burst<Mbuf>) {
        let (count, packets) = (burst.len(), burst.as_mut_ptr().cast::<*mut sys::rte_mbuf>());
        // SAFETY: the burst holds `count` packets, and an `Mbuf` is a pointer to one.
        let all = unsafe { std::slice::from_raw_parts_mut(packets, count) };
        let (queue, send, prepare) = (self.tx_queue, self.transmit, self.prepare);
        // SAFETY: the port is started; the packets are ours, and those that the driver takes are not used any more.
        let send = |packets: &mut [*mut sys::rte_mbuf]| unsafe {
            usize::from(send(queue, packets.as_mut_ptr(), packets.len() as u16))
        };
        let sent = match prepare {
            None => send(all),
            Some(prepare) => {
                // SAFETY: as above; the driver only looks at the packets and completes their headers.
                let prepare = |packets: &mut [*mut sys::rte_mbuf]| unsafe {
                    usize::from(prepare(queue, packets.as_mut_ptr(), packets.len() as u16))
                };
                send_prepared(all, prepare, send)
            }
        };
        // SAFETY: the first `sent` packets are the driver's own, so the rest is moved to the front and the length cut, and
        // none is dropped twice.
        unsafe {
            std::ptr::copy(packets.add(sent), packets, count - sent);
            burst.set_len(count - sent);
        }
    }

    fn interrupt(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: the driver closes it when the port is closed, before which this queue is dropped.
        self.interrupt.map(|file| unsafe { BorrowedFd::borrow_raw(file) })
    }

    fn arm(&mut self) {
        // It says so when there is nothing to arm, and else did once already.
        // SAFETY: the port is started; no memory is involved.
        unsafe { sys::rte_eth_dev_rx_intr_enable(self.number, self.index) };
    }

    fn disarm(&mut self) {
        // SAFETY: as above.
        unsafe { sys::rte_eth_dev_rx_intr_disable(self.number, self.index) };
    }
}

/// Sends all that `prepare` and `send` take, each of which says how many from the front. What `prepare` refuses goes
/// behind the rest, in front of which are those that were sent: so many are returned.
fn send_prepared<T>(
    packets: &mut [T],
    mut prepare: impl FnMut(&mut [T]) -> usize,
    mut send: impl FnMut(&mut [T]) -> usize,
) -> usize {
    let (mut sent, mut end) = (0, packets.len());
    while sent < end {
        let prepared = prepare(&mut packets[sent..end]);
        let taken = send(&mut packets[sent..sent + prepared]);
        sent += taken;
        if taken < prepared {
            break;
        }
        if sent < end {
            // The driver would not send this one.
            packets[sent..end].rotate_left(1);
            end -= 1;
        }
    }
    sent
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends `packets` by a driver that refuses odd ones and has room for so many.
    fn send(packets: &mut [u32], room: usize) -> Vec<u32> {
        let mut out = Vec::new();
        let is_even = |packet: &&u32| packet.is_multiple_of(2);
        let sent = send_prepared(
            packets,
            |packets| packets.iter().take_while(is_even).count(),
            |packets| {
                let taken = packets.len().min(room - out.len());
                out.extend_from_slice(&packets[..taken]);
                taken
            },
        );
        assert_eq!(sent, out.len());
        assert_eq!(packets[..sent], out, "what was sent is in front");
        out
    }

    #[test]
    fn a_packet_that_the_driver_refuses_holds_up_no_other() {
        let mut packets = [1, 2, 4, 3, 5, 6];
        assert_eq!(send(&mut packets, 9), [2, 4, 6]);
        packets[3..].sort_unstable();
        assert_eq!(packets[3..], [1, 3, 5], "the rest is there for the caller to drop");
        assert_eq!(send(&mut [8, 6, 4], 9), [8, 6, 4]);
        assert_eq!(send(&mut [1, 3], 9), [0; 0]);
        assert_eq!(send(&mut [], 9), [0; 0]);
    }

    #[test]
    fn what_a_full_queue_does_not_take_is_left() {
        let mut packets = [2, 1, 4, 6, 8];
        assert_eq!(send(&mut packets, 2), [2, 4]);
        packets[2..].sort_unstable();
        assert_eq!(packets[2..], [1, 6, 8]);
    }
}
