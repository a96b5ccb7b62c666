//! Queues, tables and buffers that are full, there and back: what finds no room is dropped and counted, and when there is room again the next one goes.
//! (The flow table is in `early_drop`, ports in `nat` and `full_nat`, the workers' rings in `lb-dataplane/tests/team.rs`.)

use super::*;
use crate::tables::{ProxyVersion, ServiceOptions};
use crate::time::Timeout;
use crate::wire::testing;

impl Director {
    fn waits(&mut self, timeout: Timeout) -> Out {
        self.now = self.now.after(timeout);
        self.turn()
    }
}

#[test]
fn packets_that_wait_for_a_neighbour_have_their_places_and_leave_them() {
    let mut director = Director::new();
    director.path.adopt(tables(2, &[12], 1).into());
    // All to .11, which is not resolved: 64 wait for it.
    let syns = vec![from_client(4000, "S"); 32];
    for _ in 0..3 {
        assert!(director.receive(WAN, &syns).sent.is_empty());
    }
    assert_eq!(director.dropped(DropReason::NeighbourQueueFull), 32);
    director.path.adopt(tables(3, &[11, 12], 1).into());
    assert_eq!(director.turn().sent.len(), 64);
    assert_eq!(director.receive(WAN, &syns).sent.len(), 32);
    director.path.adopt(tables(4, &[12], 1).into());
    director.receive(WAN, &syns);
    assert_eq!(director.dropped(DropReason::NeighbourQueueFull), 32, "there is room again");
}

#[test]
fn fragments_that_wait_for_their_first_have_their_places_and_leave_them() {
    let mut director = Director::new();
    let later = |id: u16| {
        let mut frame = datagram(3).swap_remove(1);
        frame[18..20].copy_from_slice(&id.to_be_bytes());
        testing::reseal(&mut frame);
        frame
    };
    let all: Vec<_> = (0..129).map(later).collect();
    for burst in all.chunks(BURST) {
        assert!(director.receive(WAN, burst).sent.is_empty());
    }
    assert_eq!(director.dropped(DropReason::FragmentTableFull), 1);
    director.waits(Timeout::from_secs(2));
    assert_eq!(director.dropped(DropReason::FragmentWithoutFirst), 128);
    director.receive(WAN, &[later(500)]);
    assert_eq!(director.dropped(DropReason::FragmentTableFull), 1, "there is room again");
}

#[test]
fn a_connection_that_is_edited_finds_the_place_of_one_that_is_over() {
    let mut director = Director::new();
    let tables = tables(2, &[11, 12], 1);
    let services = tables.services.iter().map(|service| {
        let mut service = (**service).clone();
        if service.key.protocol == Protocol::TCP {
            let proxy_protocol = Some(ProxyVersion::V1);
            service.options = ServiceOptions { proxy_protocol, ..ServiceOptions::default() };
        }
        Arc::new(service)
    });
    let services = Services::new(services.collect::<Vec<_>>()).into();
    director.path.adopt(Tables { services, ..tables }.into());
    for port in 0..20 {
        assert_eq!(director.receive(WAN, &[from_client(5000 + port, "S")]).sent.len(), 1);
    }
    assert!(director.receive(WAN, &[from_client(6000, "S")]).sent.is_empty());
    assert_eq!(director.dropped(DropReason::EditTableFull), 1);
    for _ in 0..7 {
        director.waits(Timeout::from_secs(10));
    }
    assert_eq!(director.receive(WAN, &[from_client(6000, "S")]).sent.len(), 1);
    assert_eq!(director.dropped(DropReason::EditTableFull), 1);
}

/// A worker with no buffer that is free.
#[derive(Default)]
struct Exhausted(Out);

impl Io<Frame> for Exhausted {
    fn transmit(&mut self, port: PortId, packet: Frame) {
        self.0.transmit(port, packet);
    }
    fn to_twin(&mut self, port: PortId, packet: Frame) {
        self.0.to_twin(port, packet);
    }
    fn hand_over(&mut self, to: WorkerId, packet: Frame, steer: Steer) {
        self.0.hand_over(to, packet, steer);
    }
    fn allocate(&mut self) -> Option<Frame> {
        None
    }
    fn resolve(&mut self, interface: InterfaceId, address: IpAddr) {
        self.0.resolve(interface, address);
    }
}

#[test]
fn without_a_free_buffer_what_must_be_split_is_dropped_and_other_packets_go_on() {
    let mut director = Director::new();
    director.receive(WAN, &[from_client(4000, "S")]);
    let mut long = from_client(4000, "A");
    long.extend([7; 1500]);
    let ip_len = (long.len() - 14) as u16;
    long[16..18].copy_from_slice(&ip_len.to_be_bytes());
    long[20] = 0;
    testing::reseal(&mut long);
    let send = |director: &mut Director, frame: &[u8], io: &mut Exhausted| {
        let mut burst: Burst<Frame> = [Frame::new(WAN, frame)].into_iter().collect();
        director.path.receive(&mut burst, director.now, io);
    };
    let mut io = Exhausted::default();
    send(&mut director, &long, &mut io);
    assert_eq!((io.0.sent.len(), director.dropped(DropReason::NoBuffer)), (0, 1));
    send(&mut director, &from_client(4000, "A"), &mut io);
    assert_eq!((io.0.sent.len(), director.dropped(DropReason::NoBuffer)), (1, 1));
    assert_eq!(director.receive(WAN, &[long]).sent.len(), 2, "there are buffers again");
    assert_eq!(director.dropped(DropReason::NoBuffer), 1);
}
