//! Connections that are expected, and which of them a request is about.

use std::net::IpAddr;

use lb_core::flow::Tuple;
use lb_core::path::{FlowEvent, FlowView, Sought, SoughtEnd, SoughtKind};
use lb_core::tables::Protocol;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Ends, EventName, Family, Net};
use crate::api::query::query;

/// A line of the answer to `GET /v1/conntrack/expectations`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Expectation {
    /// The IP protocol's number.
    pub protocol: u8,
    /// Seconds until it is expected no more.
    pub expires: u32,
    /// As its first packet will come; source port 0: from any.
    pub expected: Ends,
    /// The first packet of the connection that told of it.
    pub master: Ends,
    pub zone: u16,
    /// The helper that read of it, and the kind of what is expected, as that has them: of SIP 0 calls, 1 audio, 2 video, 3 an image.
    pub helper: String,
    #[serde(default)]
    pub class: u8,
    /// It may begin again and again.
    #[serde(default)]
    pub permanent: bool,
    /// Not yet: it is to be confirmed.
    #[serde(default)]
    pub inactive: bool,
}

impl Expectation {
    /// `None`: it is a connection, or a persistence template.
    pub fn of(view: &FlowView) -> Option<Expectation> {
        let master = view.known.told_by?;
        let Tuple { src, dst, sport, dport, .. } = view.expected()?;
        Some(Expectation {
            protocol: view.protocol.0,
            expires: view.expires_in.as_secs(),
            expected: Ends { src, dst, sport, dport },
            master: Ends { src: master.src, dst: master.dst, sport: master.sport, dport: master.dport },
            zone: view.known.zones.id(),
            helper: view.known.helper.unwrap_or_default().to_owned(),
            class: view.known.class,
            permanent: view.known.is_permanent,
            inactive: view.known.is_inactive,
        })
    }

    /// Which of `expected` counts: ones in an address or port that does, zero in one that may be any.
    pub fn mask(&self) -> Ends {
        let all = |address: IpAddr| match address {
            IpAddr::V4(_) => IpAddr::from([u8::MAX; 4]),
            IpAddr::V6(_) => IpAddr::from([u8::MAX; 16]),
        };
        let port = |port: u16| if port == 0 { 0 } else { u16::MAX };
        let Ends { src, dst, sport, dport } = self.expected;
        Ends { src: all(src), dst: all(dst), sport: port(sport), dport: port(dport) }
    }
}

/// A line of the answer to `GET /v1/conntrack/expectations/events`: what became of one, as it is then, or as it was when it ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ExpectationEvent {
    /// `NEW` or `DESTROY`: it has come, its time was over, or the connection that told of it has ended.
    pub event: EventName,
    /// Microseconds since 1970 (UTC): when the daemon heard of it.
    pub at: u64,
    #[serde(flatten)]
    pub expectation: Expectation,
}

impl ExpectationEvent {
    /// `None`: it is of a connection.
    pub fn of(event: &FlowEvent, at: u64) -> Option<ExpectationEvent> {
        let expectation = Expectation::of(&event.view)?;
        Some(ExpectationEvent { event: event.kind.into(), at, expectation })
    }
}

/// Body of `POST /v1/conntrack/expectations`: what a connection's helper is to expect, for as long as that does.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExpectationNew {
    /// The IP protocol's number, of both: TCP's, UDP's or SCTP's.
    pub protocol: u8,
    /// As its first packet will come; source port 0: from any.
    pub expected: Ends,
    /// The first packet of the connection, which has a helper.
    pub master: Ends,
    #[serde(default)]
    pub zone: u16,
}

impl ExpectationNew {
    /// Of the connection, and of what is to be expected.
    ///
    /// # Errors
    /// What cannot be.
    pub fn read(&self) -> Result<(Tuple, Tuple), String> {
        let protocol = Protocol(self.protocol);
        if !protocol.has_ports() {
            return Err(format!("protocol {}: none with ports; 6, 17 and 132 are", self.protocol));
        }
        if self.expected.dport == 0 {
            return Err("expected to port 0: outside 1..=65535".to_owned());
        }
        let tuple = |Ends { src, dst, sport, dport }: Ends| Tuple { src, dst, sport, dport, protocol };
        Ok((tuple(self.master), tuple(self.expected)))
    }
}

/// Which expectations are meant: those that all that is given fits, as the first packet will come.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ExpectationFilter {
    /// `ipv4` or `ipv6`
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub family: Option<Family>,
    /// the IP protocol's number
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u8>,
    /// source: an address, with `/24` or `/255.255.255.0` a network
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub src: Option<Net>,
    /// destination
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub dst: Option<Net>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sport: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dport: Option<u16>,
}

impl ExpectationFilter {
    /// As the workers compare it.
    pub fn sought(&self) -> Sought {
        let end = |net: Option<Net>, port| SoughtEnd { net: net.map(|net| (net.address, net.mask)), port };
        Sought {
            kind: SoughtKind::Expected,
            is_ipv6: self.family.map(|family| family == Family::Ipv6),
            protocol: self.protocol.map(Protocol),
            original: [end(self.src, self.sport), end(self.dst, self.dport)],
            ..Sought::default()
        }
    }

    /// Whether it fits one that is known by its line.
    pub fn matches(&self, expectation: &Expectation) -> bool {
        let Ends { src, dst, sport, dport } = expectation.expected;
        let is = |wanted: Option<u16>, has: u16| wanted.is_none_or(|wanted| wanted == has);
        self.protocol.is_none_or(|protocol| protocol == expectation.protocol)
            && self.family.is_none_or(|family| (family == Family::Ipv6) == src.is_ipv6())
            && self.src.is_none_or(|net| net.contains(src))
            && self.dst.is_none_or(|net| net.contains(dst))
            && is(self.sport, sport)
            && is(self.dport, dport)
    }

    /// As the query of an address; empty when all are meant.
    pub fn query(&self) -> String {
        query(self)
    }
}
