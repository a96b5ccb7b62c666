//! Which connections a list is of, as far as the workers compare them: what does not fit goes no further.

use std::net::IpAddr;

use super::FlowView;
use crate::tables::Protocol;

/// What a connection must be; what is not given, it need not.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Sought {
    pub is_ipv6: Option<bool>,
    pub protocol: Option<Protocol>,
    /// Source and destination of the original direction.
    pub original: [SoughtEnd; 2],
    /// Those of its answers.
    pub reply: [SoughtEnd; 2],
    /// A value, and which of its bits count.
    pub mark: Option<(u32, u32)>,
}

/// One end of a direction.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SoughtEnd {
    /// An address, and which of its bits count.
    pub net: Option<(IpAddr, IpAddr)>,
    pub port: Option<u16>,
}

impl Sought {
    pub fn fits(&self, view: &FlowView) -> bool {
        let (original, reply) = (view.original(), view.reply());
        self.is_ipv6.is_none_or(|is_ipv6| is_ipv6 == original.src.is_ipv6())
            && self.protocol.is_none_or(|protocol| protocol == view.protocol)
            && self.mark.is_none_or(|(value, mask)| view.known.mark & mask == value & mask)
            && self.original[0].fits(original.src, original.sport)
            && self.original[1].fits(original.dst, original.dport)
            && self.reply[0].fits(reply.src, reply.sport)
            && self.reply[1].fits(reply.dst, reply.dport)
    }
}

impl SoughtEnd {
    fn fits(&self, address: IpAddr, port: u16) -> bool {
        self.port.is_none_or(|wanted| wanted == port)
            && self.net.is_none_or(|(net, mask)| match (net, mask, address) {
                (IpAddr::V4(net), IpAddr::V4(mask), IpAddr::V4(address)) => net & mask == address & mask,
                (IpAddr::V6(net), IpAddr::V6(mask), IpAddr::V6(address)) => net & mask == address & mask,
                _ => false,
            })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::flow::Method;
    use crate::ids::ServerId;
    use crate::path::Known;
    use crate::time::Timeout;

    fn view() -> FlowView {
        let end = |last, port| (IpAddr::from([10, 0, 0, last]), port);
        FlowView {
            is_template: false,
            is_tracked: false,
            known: Known { mark: 0x12, ..Known::default() },
            protocol: Protocol::TCP,
            client: end(1, 1000),
            virtual_: end(2, 80),
            server: end(3, 8080),
            local: Some(end(4, 4000)),
            call: None,
            server_id: ServerId(0),
            method: Method::Masq,
            state: "ESTABLISHED",
            expires_in: Timeout::from_secs(9),
        }
    }

    #[test]
    fn nothing_asked_is_everything() {
        assert!(Sought::default().fits(&view()));
    }

    #[test]
    fn family_protocol_and_mark_are_compared() {
        let all = Sought::default();
        assert!(Sought { is_ipv6: Some(false), ..all }.fits(&view()));
        assert!(!Sought { is_ipv6: Some(true), ..all }.fits(&view()));
        assert!(Sought { protocol: Some(Protocol::TCP), ..all }.fits(&view()));
        assert!(!Sought { protocol: Some(Protocol::UDP), ..all }.fits(&view()));
        assert!(Sought { mark: Some((0xf2, 0x0f)), ..all }.fits(&view()));
        assert!(!Sought { mark: Some((0xf2, 0xff)), ..all }.fits(&view()));
    }

    #[test]
    fn each_end_of_each_direction_is_compared_for_itself() {
        let ends = [(1, 1000), (2, 80), (3, 8080), (4, 4000)];
        for (place, (last, port)) in ends.into_iter().enumerate() {
            let fits = |end: SoughtEnd| {
                let mut sought = Sought::default();
                let direction = if place < 2 { &mut sought.original } else { &mut sought.reply };
                direction[place % 2] = end;
                sought.fits(&view())
            };
            let net = |last, mask: [u8; 4]| Some((IpAddr::from([10, 0, 0, last]), IpAddr::from(mask)));
            assert!(fits(SoughtEnd { net: net(last, [255; 4]), port: Some(port) }), "{place}");
            assert!(!fits(SoughtEnd { net: net(last + 1, [255; 4]), port: None }), "{place}");
            assert!(fits(SoughtEnd { net: net(77, [255, 255, 255, 0]), port: None }), "{place}");
            assert!(!fits(SoughtEnd { net: None, port: Some(port + 1) }), "{place}");
            let ipv6 = Some((Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(), Ipv4Addr::BROADCAST.into()));
            assert!(!fits(SoughtEnd { net: ipv6, port: None }), "{place}");
        }
    }
}
