//! Which connections a list is of, as far as the workers compare them: what does not fit goes no further.

use std::net::IpAddr;

use super::FlowView;
use crate::conntrack::{Labels, Status, Zones};
use crate::flow::{Direction, Tuple};
use crate::tables::Protocol;

/// What a connection must be; what is not given, it need not.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Sought {
    pub kind: SoughtKind,
    pub is_ipv6: Option<bool>,
    pub protocol: Option<Protocol>,
    /// Source and destination of the original direction; of one that is expected, of its first packet.
    pub original: [SoughtEnd; 2],
    /// Those of its answers.
    pub reply: [SoughtEnd; 2],
    /// A value, and which of its bits count.
    pub mark: Option<(u32, u32)>,
    /// All of these.
    pub labels: Labels,
    /// By [netfilter's name](super::state_named).
    pub state: Option<&'static str>,
    /// All of these bits.
    pub status: Status,
    /// It is known that no packet came back.
    pub is_unreplied: bool,
    /// A rule masquerades it.
    pub is_masqueraded: bool,
    /// Of both directions, of the original one alone, of the reply alone; 0: of none of the kind.
    pub zones: [Option<u16>; 3],
    /// Type, code and identifier of ICMP's questions.
    pub icmp: (Option<u8>, Option<u8>, Option<u16>),
    /// Of the source, of the destination, of one of the two.
    pub nat: [Option<SoughtNat>; 3],
    pub id: Option<u32>,
    /// As IPVS lists it.
    pub shown: SoughtShown,
}

/// The columns of a [`FlowView`] itself, as IPVS lists them.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SoughtShown {
    pub client: SoughtEnd,
    pub virtual_: SoughtEnd,
    pub server: SoughtEnd,
    /// One of [`shown_states`](super::shown_states).
    pub state: Option<&'static str>,
}

/// What of all that is listed.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum SoughtKind {
    /// All: persistence templates too.
    #[default]
    Any,
    /// What connection tracking would call one.
    Connections,
    /// Those that are expected.
    Expected,
    /// Nothing: what is asked for no connection has.
    Nothing,
}

/// An address is translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SoughtNat {
    Any,
    To(IpAddr),
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
        let original = match self.kind {
            SoughtKind::Any => Some(view.original()),
            SoughtKind::Connections => view.is_connection().then(|| view.original()),
            SoughtKind::Expected => view.expected(),
            SoughtKind::Nothing => None,
        };
        let (Some(original), reply) = (original, view.reply()) else { return false };
        self.is_ipv6.is_none_or(|is_ipv6| is_ipv6 == original.src.is_ipv6())
            && self.protocol.is_none_or(|protocol| protocol == view.protocol)
            && self.mark.is_none_or(|(value, mask)| view.known.mark & mask == value & mask)
            && view.known.labels.has_all(self.labels)
            && self.original[0].fits(original.src, original.sport)
            && self.original[1].fits(original.dst, original.dport)
            && self.reply[0].fits(reply.src, reply.sport)
            && self.reply[1].fits(reply.dst, reply.dport)
            && self.state.is_none_or(|state| view.netfilter_state() == Some(state))
            && self.fits_status(view)
            && (!self.is_masqueraded || view.known.status.has(Status::MASQUERADED))
            && self.fits_zones(view.known.zones)
            && self.fits_icmp(view)
            && self.fits_nat(&original, &reply)
            && self.id.is_none_or(|id| view.netfilter_id() == id)
            && self.shown.fits(view)
    }

    fn fits_status(&self, view: &FlowView) -> bool {
        if self.status == Status::NONE && !self.is_unreplied {
            return true;
        }
        let (status, is_unreplied) = view.netfilter_status();
        status.has(self.status) && is_unreplied >= self.is_unreplied
    }

    fn fits_zones(&self, zones: Zones) -> bool {
        let of = [None, Some(Direction::Original), Some(Direction::Reply)];
        of.into_iter().zip(self.zones).all(|(only, wanted)| {
            wanted.is_none_or(|wanted| wanted == if zones.only() == only { zones.id() } else { 0 })
        })
    }

    fn fits_icmp(&self, view: &FlowView) -> bool {
        if self.icmp == (None, None, None) {
            return true;
        }
        let Some((kind, code, id)) = view.icmp(Direction::Original) else { return false };
        self.icmp.0.is_none_or(|wanted| wanted == kind)
            && self.icmp.1.is_none_or(|wanted| wanted == code)
            && self.icmp.2.is_none_or(|wanted| wanted == id)
    }

    fn fits_nat(&self, original: &Tuple, reply: &Tuple) -> bool {
        let is_source = (original.src, original.sport) != (reply.dst, reply.dport);
        let is_destination = (original.dst, original.dport) != (reply.src, reply.sport);
        let source = |to: SoughtNat| is_source && to.is(reply.dst);
        let destination = |to: SoughtNat| is_destination && to.is(reply.src);
        self.nat[0].is_none_or(source)
            && self.nat[1].is_none_or(destination)
            && self.nat[2].is_none_or(|to| source(to) || destination(to))
    }
}

impl SoughtShown {
    fn fits(&self, view: &FlowView) -> bool {
        self.client.fits(view.client.0, view.client.1)
            && self.virtual_.fits(view.virtual_.0, view.virtual_.1)
            && self.server.fits(view.server.0, view.server.1)
            && self.state.is_none_or(|state| view.state == state)
    }
}

impl SoughtNat {
    fn is(self, address: IpAddr) -> bool {
        match self {
            SoughtNat::Any => true,
            SoughtNat::To(wanted) => wanted == address,
        }
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
    fn state_status_zone_and_translation_are_compared() {
        let all = Sought::default();
        let view = FlowView {
            known: Known { zones: Zones::new(7, Some(Direction::Reply)), ..view().known },
            ..view()
        };
        let fits = |sought: Sought| sought.fits(&view);
        assert!(fits(Sought { state: Some("ESTABLISHED"), status: Status::ASSURED, ..all }));
        assert!(!fits(Sought { state: Some("CLOSE"), ..all }));
        assert!(!fits(Sought { status: Status::EXPECTED, ..all }));
        assert!(!fits(Sought { is_unreplied: true, ..all }));
        assert!(fits(Sought { zones: [Some(0), Some(0), Some(7)], ..all }));
        assert!(!fits(Sought { zones: [Some(7), None, None], ..all }));
        let to = |last| Some(SoughtNat::To(IpAddr::from([10, 0, 0, last])));
        assert!(fits(Sought { nat: [to(4), to(3), Some(SoughtNat::Any)], ..all }));
        assert!(!fits(Sought { nat: [to(3), None, None], ..all }));
        assert!(!fits(Sought { icmp: (None, None, Some(1000)), ..all }));
        assert!(fits(Sought { id: Some(view.netfilter_id()), kind: SoughtKind::Connections, ..all }));
        assert!(!fits(Sought { id: Some(!view.netfilter_id()), ..all }));
        assert!(!fits(Sought { kind: SoughtKind::Expected, ..all }));
        assert!(!fits(Sought { kind: SoughtKind::Nothing, ..all }));
    }

    #[test]
    fn what_is_shown_is_compared_as_it_is_shown() {
        let end = |last, port| SoughtEnd {
            net: Some((Ipv4Addr::new(10, 0, 0, last).into(), Ipv4Addr::BROADCAST.into())),
            port: Some(port),
        };
        let fits = |shown| Sought { shown, ..Sought::default() }.fits(&view());
        let nothing = SoughtShown::default();
        assert!(fits(SoughtShown { client: end(1, 1000), server: end(3, 8080), ..nothing }));
        assert!(fits(SoughtShown { virtual_: end(2, 80), state: Some("ESTABLISHED"), ..nothing }));
        assert!(!fits(SoughtShown { server: end(3, 8081), ..nothing }));
        assert!(!fits(SoughtShown { client: end(4, 4000), ..nothing }), "its other end is local");
        assert!(!fits(SoughtShown { state: Some("SYN_RECV"), ..nothing }));
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
