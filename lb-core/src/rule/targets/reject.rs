//! `REJECT`: dropped, and the sender is told by an ICMP error or a TCP reset.

use super::{Refusal, Target};
use crate::rule::prelude::*;
use crate::rule::view::Verdict;

/// (name, other names, how it is told).
type Kind = (&'static str, &'static [&'static str], Refusal);

const IPV4: &[Kind] = &[
    ("icmp-net-unreachable", &["net-unreach"], Refusal::Icmp(3, 0)),
    ("icmp-host-unreachable", &["host-unreach"], Refusal::Icmp(3, 1)),
    ("icmp-proto-unreachable", &["proto-unreach"], Refusal::Icmp(3, 2)),
    ("icmp-port-unreachable", &["port-unreach"], Refusal::Icmp(3, 3)),
    ("icmp-net-prohibited", &["net-prohib"], Refusal::Icmp(3, 9)),
    ("icmp-host-prohibited", &["host-prohib"], Refusal::Icmp(3, 10)),
    ("tcp-reset", &["tcp-rst"], Refusal::TcpReset),
    ("icmp-admin-prohibited", &["admin-prohib"], Refusal::Icmp(3, 13)),
];

const IPV6: &[Kind] = &[
    ("icmp6-no-route", &["no-route"], Refusal::Icmp(1, 0)),
    ("icmp6-adm-prohibited", &["adm-prohibited"], Refusal::Icmp(1, 1)),
    ("icmp6-addr-unreachable", &["addr-unreach"], Refusal::Icmp(1, 3)),
    ("icmp6-port-unreachable", &["port-unreach"], Refusal::Icmp(1, 4)),
    ("tcp-reset", &[], Refusal::TcpReset),
    ("icmp6-policy-fail", &["policy-fail"], Refusal::Icmp(1, 5)),
    ("icmp6-reject-route", &["reject-route"], Refusal::Icmp(1, 6)),
];

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Reject {
    /// `None`: not said yet; the family's port unreachable when the line ends.
    with: Option<Refusal>,
}

impl Reject {
    fn kinds(family: Family) -> &'static [Kind] {
        match family {
            Family::Ipv4 => IPV4,
            Family::Ipv6 => IPV6,
        }
    }

    fn refusal(&self, family: Family) -> Refusal {
        self.with.unwrap_or(match family {
            Family::Ipv4 => Refusal::Icmp(3, 3),
            Family::Ipv6 => Refusal::Icmp(1, 4),
        })
    }

    fn name(&self, family: Family) -> &'static str {
        let refusal = self.refusal(family);
        Reject::kinds(family).iter().find(|(.., known)| *known == refusal).map_or("", |(name, ..)| name)
    }
}

impl Extension for Reject {
    const NAME: &'static str = "REJECT";
    const OPTIONS: &'static [Opt] = &[opt("reject-with", 0)];
    const TABLES: &'static [Table] = &[Table::Filter];
    /// INPUT, FORWARD, OUTPUT.
    const HOOKS: u8 = 2 | 4 | 8;

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        let kinds = Reject::kinds(given.around.family);
        // As much of a name as tells it.
        let found = kinds.iter().find(|(name, others, _)| {
            let wanted = given.value.to_ascii_lowercase();
            !wanted.is_empty() && (name.starts_with(&*wanted) || others.iter().any(|other| other.starts_with(&*wanted)))
        });
        let Some((.., refusal)) = found else {
            let is_old = |name: &str| name.starts_with(&*given.value.to_ascii_lowercase());
            if given.around.family == Family::Ipv4 && (is_old("echo-reply") || is_old("echoreply")) {
                given.around.warn("--reject-with echo-reply no longer supported");
            }
            return Err(Error::parameter(format!("unknown reject type \"{}\"", given.value)));
        };
        self.with = Some(*refusal);
        Ok(())
    }

    /// One that says nothing is the same rule as one that says what it would be.
    fn finish(&mut self, _: u32, around: &Around<'_>) -> Result<(), Error> {
        self.with = Some(self.refusal(around.family));
        Ok(())
    }

    fn check(&self, place: &Place<'_>) -> Result<(), Refused> {
        let is_tcp = place.header.protocol == 6 && !place.header.is_not_protocol;
        if self.with == Some(Refusal::TcpReset) && !is_tcp { Err(Refused::Invalid) } else { Ok(()) }
    }

    fn save(&self, out: &mut String, family: Family) {
        put!(out, " --reject-with {}", self.name(family));
    }

    fn list(&self, out: &mut String, style: &Style<'_>, _: &Header) {
        put!(out, " reject-with {}", self.name(style.family));
    }
}

impl Target for Reject {
    fn act(&self, view: &mut View<'_>, _: u32) -> Option<Verdict> {
        Some(Verdict::Reject(self.refusal(view.family())))
    }
}
