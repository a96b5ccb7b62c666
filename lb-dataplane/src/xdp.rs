//! The XDP program of a network interface, asked of the kernel by netlink.
//!
//! A run that was killed leaves its program attached. AF_XDP's driver takes such a program over and removes it at a clean
//! stop, so that all there is to do is to say so.

use std::io;

use netlink_packet_route::link::{LinkAttribute, LinkMessage, LinkXdp};

use crate::link;

/// The kernel's number of the program that is attached to `interface`, if there is one.
///
/// # Errors
/// What the kernel says; `NotFound` when there is no such interface.
pub(crate) fn program_on(interface: &str) -> io::Result<Option<u32>> {
    Ok(program_of(&link::of(interface)?))
}

fn program_of(link: &LinkMessage) -> Option<u32> {
    let lists = link.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::Xdp(list) => Some(list),
        _ => None,
    });
    lists.flatten().find_map(|entry| match *entry {
        LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) | LinkXdp::HwProgId(id) => {
            Some(id).filter(|&id| id != 0)
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::XdpAttached;

    use super::*;

    #[test]
    fn an_interface_without_a_program_has_none_and_a_missing_one_is_an_error() {
        assert_eq!(program_on("lo").unwrap(), None);
        assert_eq!(program_on("nosuch0").unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_program_is_found_whatever_the_way_it_is_attached() {
        for id in [LinkXdp::ProgId(7), LinkXdp::SkbProgId(7), LinkXdp::DrvProgId(7)] {
            let mut link = LinkMessage::default();
            link.attributes.push(LinkAttribute::Mtu(1500));
            link.attributes.push(LinkAttribute::Xdp(vec![LinkXdp::Attached(XdpAttached::SocketBuffer), id]));
            assert_eq!(program_of(&link), Some(7));
        }
    }
}
