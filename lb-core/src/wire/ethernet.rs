//! Ethernet II (RFC 894) and 802.1Q tags.

use super::array_mut;
use super::parse::Headers;
use crate::packet::{NoRoom, Packet};
use crate::tables::Mac;

/// Length of an untagged header.
pub const LEN: usize = 14;
/// Length of one tag.
pub const TAG_LEN: usize = 4;

pub const IPV4: u16 = 0x0800;
pub const ARP: u16 = 0x0806;
pub const IPV6: u16 = 0x86dd;
pub const VLAN: u16 = 0x8100;
/// 802.1ad's outer tag.
pub const QINQ: u16 = 0x88a8;

/// Whom the frame is for; all zeros when it is too short to say.
#[inline]
pub fn destination(frame: &[u8]) -> Mac {
    frame.first_chunk().copied().unwrap_or_default()
}

/// True for broadcast and multicast addresses (IEEE 802-2014 §8.2.2).
#[inline]
pub const fn is_group(mac: &Mac) -> bool {
    mac[0] & 1 != 0
}

/// Both addresses as they stand in a frame.
pub fn addresses(destination: Mac, source: Mac) -> [u8; 12] {
    let mut both = [0; 12];
    both[..6].copy_from_slice(&destination);
    both[6..].copy_from_slice(&source);
    both
}

/// Writes both [`addresses`].
#[inline]
pub fn set_addresses(frame: &mut [u8], addresses: &[u8; 12]) {
    if let Some(place) = frame.first_chunk_mut::<12>() {
        *place = *addresses;
    }
}

/// Sends the frame back to where it came from.
#[inline]
pub fn swap_addresses(frame: &mut [u8]) {
    if let Some(addresses) = frame.first_chunk_mut::<12>() {
        addresses.rotate_left(6);
    }
}

/// Leaves the frame with one tag of `vlan`, or with none for 0, and brings the offsets in `headers` up to date.
///
/// A tag that is written has priority 0, as Linux writes it without an egress map.
///
/// # Errors
/// `NoRoom` when the buffer has none before the frame; the frame is as it was.
#[inline]
pub fn set_vlan<P: Packet>(packet: &mut P, headers: &mut Headers, vlan: u16) -> Result<(), NoRoom> {
    if vlan == 0 && headers.vlan_len() == 0 {
        return Ok(());
    }
    retag(packet, headers, vlan)
}

#[inline(never)]
fn retag<P: Packet>(packet: &mut P, headers: &mut Headers, vlan: u16) -> Result<(), NoRoom> {
    let old = usize::from(headers.vlan_len());
    let new = if vlan == 0 { 0 } else { TAG_LEN };
    let addresses: [u8; 12] = *packet.data().first_chunk().ok_or(NoRoom)?;
    packet.move_start(old as isize - new as isize)?;
    let frame = packet.data_mut();
    if let Some(start) = frame.first_chunk_mut() {
        *start = addresses;
    }
    if let Some(tag) = array_mut::<4>(frame, 12)
        && vlan != 0
    {
        let [high, low] = (vlan & 0x0fff).to_be_bytes();
        *tag = [VLAN.to_be_bytes()[0], VLAN.to_be_bytes()[1], high, low];
    }
    // The EtherType stands directly before the IP header, and moved with it.
    headers.l3 = (LEN + new) as u8;
    headers.l4 = (usize::from(headers.l4) + new - old) as u16;
    headers.vlan = vlan;
    headers.inner_vlan = 0;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{self, CLIENT_MAC, OUR_MAC, Recipe, headers, recipe};
    use super::*;
    use crate::ids::PortId;
    use crate::packet::Frame;

    fn tagged(vlans: &[u16]) -> Vec<u8> {
        Recipe { vlans: vlans.to_vec(), ..recipe(testing::v4(), testing::tcp(), 9) }.build()
    }

    #[test]
    fn tags_are_added_changed_and_stripped() {
        let all: [&[u16]; 5] = [&[], &[7], &[8], &[0], &[7, 8]];
        for before in all {
            for after in [0, 7, 8] {
                let frame = tagged(before);
                let mut packet = Frame::new(PortId(0), &frame);
                let mut found = headers(&frame);
                set_vlan(&mut packet, &mut found, after).unwrap();
                let expected = if after == 0 { tagged(&[]) } else { tagged(&[after]) };
                assert_eq!(packet.data(), expected, "{before:?} to {after}");
                assert_eq!(found, headers(&expected));
            }
        }
    }

    #[test]
    fn addresses_are_written_and_swapped() {
        let mut frame = tagged(&[]);
        assert_eq!(destination(&frame), OUR_MAC);
        swap_addresses(&mut frame);
        assert_eq!(frame[..12], [CLIENT_MAC, OUR_MAC].concat());
        set_addresses(&mut frame, &addresses([1; 6], [2; 6]));
        assert_eq!(frame[..12], [[1; 6], [2; 6]].concat());
        assert!(is_group(&[1; 6]) && !is_group(&[2; 6]));
        set_addresses(&mut frame[..11], &addresses([3; 6], [4; 6]));
        assert_eq!(frame[..6], [1; 6], "too short for addresses");
    }
}
