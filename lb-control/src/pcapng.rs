//! pcapng files, as far as they are written here: sections, their interfaces, packets with comments.
//!
//! Source: "PCAP Now Generic (pcapng) Capture File Format", draft-ietf-opsawg-pcapng: §4.1 section header, §4.2 interface description, §4.3
//! enhanced packet.

/// Of the blocks, in the order of the sections of the draft.
const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;

/// What tells of the byte order of the section.
const MAGIC: u32 = 0x1a2b_3c4d;
const ETHERNET: u16 = 1;

const END_OF_OPTIONS: u16 = 0;
const COMMENT: u16 = 1;
const APPLICATION: u16 = 4;
const INTERFACE_NAME: u16 = 2;
const PACKET_FLAGS: u16 = 2;

/// One way past the director, which is what packets come by or leave by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    Inbound,
    Outbound,
}

/// A packet as it is to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet<'a> {
    /// Of the section, in the order in which they are described.
    pub interface: u32,
    /// Microseconds from 1970 (UTC).
    pub at: u64,
    pub frame: &'a [u8],
    /// Bytes that it had on the wire.
    pub len: u32,
    pub way: Way,
    pub comment: &'a str,
}

/// Begins a section, written by `application`.
pub fn section(out: &mut Vec<u8>, application: &str) {
    block(out, SECTION, |out| {
        out.extend(MAGIC.to_le_bytes());
        // Version 1.0; nobody knows how long it will be.
        out.extend([1, 0, 0, 0]);
        out.extend(u64::MAX.to_le_bytes());
        option(out, APPLICATION, application.as_bytes());
        option(out, END_OF_OPTIONS, &[]);
    });
}

/// Describes the section's next interface, whose packets are Ethernet frames in full.
pub fn interface(out: &mut Vec<u8>, name: &str) {
    block(out, INTERFACE, |out| {
        out.extend(ETHERNET.to_le_bytes());
        out.extend([0; 2]);
        // No limit.
        out.extend([0; 4]);
        option(out, INTERFACE_NAME, name.as_bytes());
        option(out, END_OF_OPTIONS, &[]);
    });
}

pub fn packet(out: &mut Vec<u8>, packet: &Packet<'_>) {
    block(out, PACKET, |out| {
        let frame = packet.frame;
        let [high, low] = [(packet.at >> 32) as u32, packet.at as u32];
        for word in [packet.interface, high, low, frame.len() as u32, packet.len] {
            out.extend(word.to_le_bytes());
        }
        padded(out, frame);
        option(out, COMMENT, packet.comment.as_bytes());
        let direction: u32 = if packet.way == Way::Inbound { 1 } else { 2 };
        option(out, PACKET_FLAGS, &direction.to_le_bytes());
        option(out, END_OF_OPTIONS, &[]);
    });
}

/// A block: its length stands before and behind what is in it.
fn block(out: &mut Vec<u8>, kind: u32, fill: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend(kind.to_le_bytes());
    out.extend([0; 4]);
    fill(out);
    let len = ((out.len() - at + 4) as u32).to_le_bytes();
    out[at + 4..at + 8].copy_from_slice(&len);
    out.extend(len);
}

/// An option. None of ours comes near 64 KiB.
fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    out.extend(code.to_le_bytes());
    out.extend((value.len() as u16).to_le_bytes());
    padded(out, value);
}

/// Up to the next word of 32 bits.
fn padded(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(bytes);
    out.resize(out.len().next_multiple_of(4), 0);
}
