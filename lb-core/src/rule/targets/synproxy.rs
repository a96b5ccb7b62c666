//! `SYNPROXY`: a connection's SYN is answered for the server, with a cookie; the server hears of those that acknowledge it.

use super::Target;
use crate::rule::prelude::*;
use crate::rule::view::Verdict;
use crate::syn_cookie::Offer;
use crate::wire::parse::Fragment;
use crate::wire::tcp::{ACK, FIN, RST, SYN};
use crate::wire::tcp_options::TcpOptions;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct SynProxy {
    offer: Offer,
}

impl Extension for SynProxy {
    const NAME: &'static str = "SYNPROXY";
    const OPTIONS: &'static [Opt] =
        &[flag("sack-perm", 0), flag("timestamp", 1), opt("wscale", 2), opt("mss", 3), flag("ecn", 4)];
    const PROTOCOL: Option<u8> = Some(6);
    /// INPUT, FORWARD.
    const HOOKS: u8 = 2 | 4;

    /// Numbers are cut to their fields, as iptables does.
    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        match given.id() {
            0 => self.offer.sack = true,
            1 => self.offer.timestamps = true,
            2 => self.offer.scale = Some(given.u32()? as u8),
            3 => self.offer.mss = Some(given.u32()? as u16),
            _ => self.offer.ecn = true,
        }
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        self.put(out, " --", "");
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        out.push_str(" SYNPROXY ");
        self.put(out, "", " ");
    }
}

impl SynProxy {
    fn put(&self, out: &mut String, before: &str, behind: &str) {
        let Offer { mss, scale, sack, timestamps, ecn } = self.offer;
        if sack {
            put!(out, "{before}sack-perm{behind}");
        }
        if timestamps {
            put!(out, "{before}timestamp{behind}");
        }
        if let Some(scale) = scale {
            put!(out, "{before}wscale {scale}{behind}");
        }
        if let Some(mss) = mss {
            put!(out, "{before}mss {mss}{behind}");
        }
        if ecn {
            put!(out, "{before}ecn{behind}");
        }
    }
}

impl Target for SynProxy {
    fn act(&self, view: &mut View<'_>, _: u32) -> Option<Verdict> {
        let is_asking = matches!(view.headers.tcp_flags & (SYN | ACK | FIN | RST), SYN | ACK);
        let is_whole = view.headers.fragment == Fragment::None;
        // What is more than the largest is taken for that (RFC 7323 §2.3).
        let scale = self.offer.scale.map(|scale| scale.min(TcpOptions::MAX_SCALE));
        (is_asking && is_whole).then_some(Verdict::SynProxy(Offer { scale, ..self.offer }))
    }
}
