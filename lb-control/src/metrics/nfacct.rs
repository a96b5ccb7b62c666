//! `lb_nfacct_*`: what rules count under a name.

use super::Family;
use crate::daemon::Control;

pub(super) fn gather(control: &Control) -> Vec<Family> {
    let help = "Packets that rules have counted under the name (nfacct).";
    let mut packets = Family::counter("lb_nfacct_packets_total", help);
    let help = "Bytes of IP packets that rules have counted under the name (nfacct).";
    let mut bytes = Family::counter("lb_nfacct_bytes_total", help);
    let help = "1 when the quota of the name (nfacct) is used up; of names that have one.";
    let mut over_quota = Family::gauge("lb_nfacct_over_quota", help);
    for account in control.accounts() {
        let labels = [("name", account.name.as_str())];
        packets.add(&labels, account.counts.packets);
        bytes.add(&labels, account.counts.bytes);
        if account.quota.is_some() {
            over_quota.add(&labels, account.over_quota.into());
        }
    }
    vec![packets, bytes, over_quota]
}
