//! The end of a tunnel on a real server, for machines whose kernel has no tunnel devices: IP in IP, GUE and GRE, of either family
//! in either.
//!
//! It takes tunnelled packets off the server's link, past the kernel's own stack, and puts what they carry on a cable that begins and
//! ends in the same namespace: the kernel receives it there as from any link.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;

use crate::namespace::Namespace;
use crate::wire::Tap;

/// The UDP port of GUE.
pub const GUE_PORT: u16 = 6080;

const ETHERNET: usize = 14;
const INNER: &str = "inner0";
const UNPACKED: &str = "unpacked0";

/// Ends tunnels on a real server until it is dropped.
#[derive(Debug)]
pub struct Decapsulator {
    stop: Arc<AtomicBool>,
    unpacked: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Decapsulator {
    /// Starts on `eth0` of a real server, for packets to its own addresses.
    ///
    /// # Errors
    /// When the namespace has one already, or what `ip` or nft say.
    pub fn start(server: &Namespace) -> Result<Decapsulator> {
        server.ip(&format!("link add {INNER} type veth peer name {UNPACKED}"))?;
        server.ip(&format!("link set {INNER} up"))?;
        server.ip(&format!("link set {UNPACKED} up"))?;
        server.sysctl(&format!("ipv4/conf/{UNPACKED}/rp_filter"), "0")?;
        // The kernel would answer that nobody here takes them.
        let rules = format!(
            "table inet tunnels {{\nchain in {{\ntype filter hook input priority -300;\n\
             meta l4proto {{ 4, 41, 47 }} drop\nudp dport {GUE_PORT} drop\n}}\n}}"
        );
        server.run(60, "nft", &[&rules])?;
        let outer = Tap::open(server, "eth0")?;
        let inner = Tap::open(server, INNER)?;
        let unpacked_mac = Tap::open(server, UNPACKED)?.mac();
        let (stop, unpacked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (stop.clone(), unpacked.clone());
        let thread = std::thread::Builder::new().name("decapsulator".to_owned()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let is_for_us =
                    |frame: &[u8]| frame.get(..6) == Some(&outer.mac()[..]) && carried(frame).is_some();
                let Ok(frame) = outer.receive("a tunnel's packet", Duration::from_millis(10), is_for_us)
                else {
                    continue;
                };
                let Some(packet) = carried(&frame) else { continue };
                let ether_type: [u8; 2] = if packet[0] >> 4 == 6 { [0x86, 0xdd] } else { [8, 0] };
                let whole = [&unpacked_mac[..], &inner.mac(), &ether_type, packet].concat();
                if inner.send(&whole).is_ok() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        })?;
        Ok(Decapsulator { stop, unpacked, thread: Some(thread) })
    }

    /// Packets so far.
    pub fn unpacked(&self) -> u64 {
        self.unpacked.load(Ordering::Relaxed)
    }
}

impl Drop for Decapsulator {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

/// The packet within a whole tunnelled one.
fn carried(frame: &[u8]) -> Option<&[u8]> {
    let ip = frame.get(ETHERNET..)?;
    let word = |at: usize| Some(usize::from(u16::from_be_bytes([*ip.get(at)?, *ip.get(at + 1)?])));
    let (protocol, header_len, end) = match (frame[12], frame[13], ip.first()? >> 4) {
        (8, 0, 4) => (*ip.get(9)?, usize::from(ip[0] & 15) * 4, word(2)?),
        (0x86, 0xdd, 6) => (*ip.get(6)?, 40, 40 + word(4)?),
        _ => return None,
    };
    let within = ip.get(header_len..end)?;
    let packet = match protocol {
        4 | 41 => within,
        17 if within.get(2..4)? == GUE_PORT.to_be_bytes() => within.get(12..)?,
        47 if within.first()? & 0x80 != 0 => within.get(8..)?,
        47 => within.get(4..)?,
        _ => return None,
    };
    matches!(packet.first()? >> 4, 4 | 6).then_some(packet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_tunnel_carries_is_found_behind_its_headers() {
        let inner = [&[0x45_u8][..], &[7; 39]].concat();
        let outer = |protocol: u8, between: &[u8]| {
            let len = (20 + between.len() + inner.len()) as u16;
            let mut ip = [0_u8; 20];
            (ip[0], ip[9]) = (0x45, protocol);
            ip[2..4].copy_from_slice(&len.to_be_bytes());
            [&[0_u8; 12][..], &[8, 0], &ip, between, &inner, &[0; 4]].concat()
        };
        let gue = [[0x90, 0, 0x17, 0xc0, 0, 52, 0, 0], [0, 4, 0, 0, 0, 0, 0, 0]].concat();
        for frame in [
            outer(4, &[]),
            outer(17, &gue[..12]),
            outer(47, &[0, 0, 8, 0]),
            outer(47, &[0x80, 0, 8, 0, 1, 2, 0, 0]),
        ] {
            assert_eq!(carried(&frame), Some(&inner[..]), "{frame:02x?}");
        }
        assert_eq!(carried(&outer(6, &[])), None);
    }
}
