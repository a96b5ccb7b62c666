//! `lb_quic_lb_*`: first packets of connections of services with QUIC-LB, of all workers together.

use lb_core::counters::QuicCounters;
use lb_core::ipvs::quic_lb::Fallback;

use super::Family;
use crate::daemon::Control;

pub(super) fn gather(control: &Control) -> Vec<Family> {
    let sum = |count: &dyn Fn(&QuicCounters) -> u64| -> u64 {
        control.plane().counters().iter().map(|worker| count(&worker.quic)).sum()
    };
    let routed = Family::counter(
        "lb_quic_lb_routed_total",
        "First packets sent to the real server that their QUIC connection ID names.",
    );
    let mut scheduled = Family::counter(
        "lb_quic_lb_scheduled_total",
        "First packets whose QUIC connection ID names no real server, by the reason.",
    );
    for why in Fallback::ALL {
        let count = sum(&|quic| quic.scheduled[why as usize].get());
        scheduled.add(&[("reason", why.label())], count);
    }
    vec![routed.with(&[], sum(&|quic| quic.routed.get())), scheduled]
}
