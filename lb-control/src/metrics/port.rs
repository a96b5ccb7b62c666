//! `lb_port_*`: the ports, as the workers and the devices count them.

use super::Family;
use crate::api::types::PortView;
use crate::daemon::Control;

type Row = (&'static str, &'static str, fn(&PortView) -> u64);

const COUNTERS: &[Row] = &[
    ("lb_port_receive_packets_total", "Packets received.", |port| port.rx_packets),
    ("lb_port_receive_bytes_total", "Bytes received.", |port| port.rx_bytes),
    ("lb_port_transmit_packets_total", "Packets sent.", |port| port.tx_packets),
    ("lb_port_transmit_bytes_total", "Bytes sent.", |port| port.tx_bytes),
    (
        "lb_port_handed_over_packets_total",
        "Packets received by one worker and handed to the one that has their connection.",
        |port| port.handed_over,
    ),
    (
        "lb_port_receive_missed_total",
        "Packets that the device lost for want of descriptors or buffers, or by errors.",
        |port| port.rx_missed,
    ),
    ("lb_port_to_twin_packets_total", "Packets given to Linux by the port's twin.", |port| port.to_twin),
    ("lb_port_from_twin_packets_total", "Packets of Linux sent by the port's twin.", |port| port.from_twin),
    ("lb_port_transmit_errors_total", "Packets that the device could not send.", |port| port.tx_errors),
    (
        "lb_port_twin_refused_total",
        "Frames that the kernel refused on the port's twin, and frames of its own longer than the port sends.",
        |port| port.twin_refused,
    ),
    (
        "lb_port_twin_waits_total",
        "Times that frames from the port's twin had to wait for a buffer.",
        |port| port.twin_waits,
    ),
];

const GAUGES: &[Row] = &[
    ("lb_port_up", "1: the port's link is up.", |port| port.link_up.into()),
    ("lb_port_queues", "Pairs of a receive and a transmit queue.", |port| port.queues.into()),
    ("lb_port_mtu_bytes", "Longest IP packet.", |port| port.mtu.into()),
];

pub(super) fn gather(control: &Control) -> Vec<Family> {
    let ports = control.port_views();
    let fill = |mut family: Family, value: fn(&PortView) -> u64| {
        ports.iter().for_each(|port| family.add(&[("port", &port.name)], value(port)));
        family
    };
    let counter = |&(name, help, value): &Row| fill(Family::counter(name, help), value);
    let gauge = |&(name, help, value): &Row| fill(Family::gauge(name, help), value);
    COUNTERS.iter().map(counter).chain(GAUGES.iter().map(gauge)).collect()
}
