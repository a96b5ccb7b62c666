//! Goal: matches that look into headers say yes and no where they should. Method: a packet, matches that hold of it and others that do not; a rule with
//! each in turn drops what it matches before anything else is asked.

use super::hooks::{director, rules};
use super::*;

fn ipv4(source: [u8; 4], tos: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let len = (20 + payload.len()) as u16;
    let mut header = vec![0x45, tos, 0, 0, 0, 1, 0, 0, 64, protocol, 0, 0];
    header.extend(source);
    header.extend([10, 0, 0, 11]);
    header[2..4].copy_from_slice(&len.to_be_bytes());
    let sum = checksum::sum(&header);
    header[10..12].copy_from_slice(&(!sum).to_be_bytes());
    [&C2D.1[..], &C2D.0, &[8, 0], &header, payload].concat()
}

/// From `interface` of 2001:db8::/64, with these headers, of which the first is of this kind.
fn ipv6(interface: u64, kind: u8, headers: &[&[u8]]) -> Vec<u8> {
    let payload = headers.concat();
    let mut header = vec![0x60, 0, 0, 0, 0, payload.len() as u8, kind, 64];
    header.extend((0x2001_0db8_u128 << 96 | u128::from(interface)).to_be_bytes());
    header.extend((0xfd00_u128 << 112 | 0x11).to_be_bytes());
    [&C2D.1[..], &C2D.0, &[0x86, 0xdd], &header, &payload].concat()
}

/// Whether a rule with these matches takes the packet.
fn takes(matches: &str, frame: &[u8]) -> bool {
    let mut director = director(rules(&[&format!("raw PREROUTING {matches} -j DROP")]));
    director.receive(WAN, &[frame.to_vec()]).sent.is_empty()
}

fn check(frame: &[u8], holding: &[&str], others: &[&str]) {
    assert!(!takes("-m mark --mark 1", frame), "it comes through");
    for matches in holding {
        assert!(takes(matches, frame), "{matches}");
    }
    for matches in others {
        assert!(!takes(matches, frame), "{matches}");
    }
}

const UDP: [u8; 8] = [0x0f, 0xa0, 0, 53, 0, 8, 0, 0];

#[test]
fn parameters_indexes_of_esp_ah_and_compressed_packets() {
    check(
        &ipv4([192, 0, 2, 100], 0, 50, &[0, 0, 1, 7, 0, 0, 0, 1]),
        &["-p esp", "-p esp -m esp", "-p esp -m esp --espspi 263", "-p esp -m esp --espspi 1:0x107"],
        &[
            "-p esp -m esp ! --espspi 1:0x107",
            "-p esp -m esp --espspi 264:",
            "-p esp -m esp --espspi 264:262",
        ],
    );
    let ah = [17, 4, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    check(
        &ipv4([192, 0, 2, 100], 0, 51, &[&ah[..], &UDP].concat()),
        &["-p ah -m ah --ahspi 9", "-p ah -m ah ! --ahspi 10"],
        &["-p ah -m ah --ahspi 10:11", "-p esp -m esp"],
    );
    check(
        &ipv4([192, 0, 2, 100], 0, 108, &[17, 0x80, 1, 44, 1, 2, 3, 4]),
        &["-p 108 -m ipcomp --ipcompspi 300", "-p 108 -m ipcomp ! --ipcompspi 0:299"],
        &[
            "-p 108 -m ipcomp",
            "-p 108 -m ipcomp --ipcompspi 300 --compres",
            "-p 108 -m ipcomp --ipcompspi 301:",
        ],
    );
}

#[test]
fn extension_headers_of_ipv6() {
    let hop_by_hop = [60, 0, 5, 2, 0, 0, 1, 0];
    let options = [43, 1, 0, 201, 3, 1, 2, 3, 1, 6, 0, 0, 0, 0, 0, 0];
    let (first, second) = ([0xfd; 16], [0xfe; 16]);
    let routing = [&[51, 4, 0, 0, 0, 0, 0, 0][..], &first, &second].concat();
    let ah = [44, 4, 0, 1, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let fragment = [17, 0, 0, 0, 0, 0, 0, 77];
    let frame = ipv6(0x100, 0, &[&hop_by_hop, &options, &routing, &ah, &fragment, &UDP]);
    let [first, second] = [first, second].map(|address| IpAddr::from(address).to_string());
    let addresses = |list: &str, more: &str| format!("-m rt --rt-type 0 --rt-0-addrs {list}{more}");
    check(
        &frame,
        &[
            "-m hbh",
            "-m hbh --hbh-len 8",
            "-m hbh --hbh-opts 5",
            "-m hbh --hbh-opts 5:2,1:0",
            "-m dst ! --dst-len 8",
            "-m dst --dst-len 16 --dst-opts 0,201:3",
            "-m rt",
            "-m rt --rt-type 0 --rt-segsleft 0 --rt-len 40 --rt-0-res",
            "-m rt ! --rt-type 4 ! --rt-segsleft 1:9",
            &addresses(&format!("{first},{second}"), ""),
            &addresses(&second, " --rt-0-not-strict"),
            "-m ah --ahlen 24 --ahspi 9",
            "-m frag --fragid 70:80 --fragres --fragfirst --fraglast --fraglen 8",
            "-m ipv6header --header hop,dst,route,auth,frag,prot",
            "-m ipv6header --header frag --soft",
            "-m ipv6header ! --header esp,none --soft",
            "-p udp -m udp --dport 53",
        ],
        &[
            "-m hbh ! --hbh-len 8",
            "-m hbh --hbh-opts 5:3",
            "-m hbh --hbh-opts 1,5",
            "-m hbh --hbh-opts 5,1,0",
            "-m dst --dst-opts 201",
            "-m rt --rt-type 4",
            "-m rt ! --rt-len 40",
            &addresses(&second, ""),
            &addresses(&format!("{second},{first}"), " --rt-0-not-strict"),
            "-m ah --ahspi 9 --ahres",
            "-m ah --ahspi 9 ! --ahlen 24",
            "-m frag --fragmore",
            "-m frag ! --fragid 77",
            "-m frag --fraglen 16",
            "-m ipv6header --header hop,dst,route,auth,frag",
            "-m ipv6header --header esp --soft",
            "-m ipv6header ! --header hop,dst,route,auth,frag,prot",
            "-m ipv6header ! --header esp,frag --soft",
            "-m eui64",
        ],
    );
    check(
        &ipv6(0x100, 17, &[&UDP]),
        &["-m ipv6header --header prot", "-m ipv6header ! --header hop"],
        &["-m hbh", "-m dst", "-m rt", "-m frag", "-m ah --ahlen 24", "-m ipv6header --header none"],
    );
    check(
        &ipv6(0x100, 44, &[&[17, 0, 0, 1, 0, 0, 0, 7], &UDP]),
        &["-m frag --fragmore --fragfirst", "-m ipv6header --header frag,prot", "-p udp -m udp --dport 53"],
        &["-m frag --fraglast", "-m frag ! --fragid 0:7"],
    );
}

#[test]
fn segments_of_a_segment_routing_header() {
    // As Linux 6.18 does, but for the tag, which that reads backwards.
    let segments: [[u8; 16]; 3] = [0xa, 0xb, 0xc].map(|first: u128| (first << 112 | 1).to_be_bytes());
    let frame = |kind: u8, left: u8, last: u8| {
        let header = [&[17, 6, kind, left, last, 0, 0, 7][..], &segments.concat()].concat();
        ipv6(0x100, 43, &[&header, &UDP])
    };
    check(
        &frame(4, 1, 2),
        &[
            "-m srh",
            "-m srh --srh-next-hdr 17 --srh-hdr-len-eq 6 --srh-segs-left-eq 1 --srh-last-entry-eq 2 --srh-tag 7",
            "-m srh --srh-hdr-len-gt 5 ! --srh-segs-left-lt 1 --srh-last-entry-lt 3",
            "-m srh --srh-psid c::/16 --srh-nsid a::1 --srh-lsid a::/64",
            "-m srh ! --srh-psid d:: ! --srh-nsid d:: ! --srh-lsid d::",
        ],
        &[
            "-m srh ! --srh-next-hdr 17",
            "-m srh --srh-hdr-len-lt 6",
            "-m srh ! --srh-tag 7",
            "-m srh --srh-segs-left-gt 1",
            "-m srh --srh-psid c::1/128 --srh-lsid b::",
            "-m srh ! --srh-nsid a::/64",
        ],
    );
    // The last segment has no next one, the first one none before, whether that is to be one or not.
    check(
        &frame(4, 0, 2),
        &["-m srh --srh-psid b::1"],
        &["-m srh --srh-nsid a::1", "-m srh ! --srh-nsid d::"],
    );
    check(
        &frame(4, 2, 2),
        &["-m srh --srh-nsid b::1"],
        &["-m srh --srh-psid c::1", "-m srh ! --srh-psid d::"],
    );
    check(&frame(4, 1, 5), &["-m srh --srh-lsid a::1"], &["-m srh --srh-psid b::1"]);
    check(&frame(4, 3, 2), &[], &["-m srh", "-m srh ! --srh-next-hdr 6"]);
    check(&frame(3, 1, 2), &["-m rt --rt-type 3"], &["-m srh"]);
}

#[test]
fn messages_of_mobile_ipv6_by_their_type() {
    check(
        &ipv6(0x100, 135, &[&[59, 1, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]]),
        &[
            "-p mh -m mh",
            "-p mh -m mh --mh-type bu",
            "-p mh -m mh --mh-type cot:",
            "-p mh -m mh ! --mh-type 6:7",
        ],
        &["-p mh -m mh ! --mh-type binding-update", "-p mh -m mh --mh-type 0:4"],
    );
}

#[test]
fn no_packet_comes_by_an_ipsec_policy() {
    check(
        &ipv4([192, 0, 2, 100], 0, 17, &UDP),
        &["-m policy --dir in --pol none"],
        &["-m policy --dir in --pol ipsec", "-m policy --dir in --pol ipsec --proto esp"],
    );
}

#[test]
fn an_interface_identifier_that_is_made_of_the_frames_source() {
    let [a, b, c, d, e, f] = C2D.0;
    let interface = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    check(&ipv6(interface, 17, &[&UDP]), &["-m eui64"], &[]);
    check(&ipv6(interface ^ 1, 17, &[&UDP]), &[], &["-m eui64"]);
}

#[test]
fn ports_types_and_options_of_dccp() {
    // A response (type 1) with a sequence number of 48 bits, its acknowledgement and service code, and three options.
    let response = [
        &[0x0f, 0xa0, 0, 80, 9, 0, 0, 0, 1 << 1 | 1, 0, 0, 0, 0, 0, 0, 1][..],
        &[0, 0, 0, 0, 0, 0, 0, 2, 37, 0, 37, 0],
        &[1, 37, 3, 99, 32, 2, 0, 0],
    ];
    check(
        &ipv4([192, 0, 2, 100], 0, 33, &response.concat()),
        &[
            "-p 33 -m dccp --sport 4000 --dport 80:81",
            "-p 33 -m dccp --dccp-types REQUEST,response",
            "-p 33 -m dccp --dccp-option 37",
            "-p 33 -m dccp --dccp-option 32",
            "-p 33 -m dccp ! --dccp-option 99",
        ],
        &[
            "-p 33 -m dccp ! --dport 80",
            "-p 33 -m dccp --sport 4001:3999",
            "-p 33 -m dccp ! --dccp-types RESPONSE",
            "-p 33 -m dccp --dccp-types DATA,INVALID",
            "-p 33 -m dccp --dccp-option 2",
            "-p 33 -m dccp --dccp-option 99",
        ],
    );
}

#[test]
fn what_a_packet_says_of_congestion() {
    let syn = |flags: u8| [0x0f, 0xa0, 0, 22, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 4, 0, 0, 0, 0, 0];
    check(
        &ipv4([192, 0, 2, 100], 2, 6, &syn(0xc2)),
        &["-p tcp -m ecn --ecn-tcp-ece --ecn-tcp-cwr", "-m ecn --ecn-ip-ect 2", "-m ecn ! --ecn-ip-ect 0"],
        &["-p tcp -m ecn ! --ecn-tcp-ece", "-m ecn --ecn-ip-ect 3", "-m ecn ! --ecn-ip-ect 2"],
    );
    check(
        &ipv4([192, 0, 2, 100], 4, 6, &syn(0x42)),
        &["-p tcp -m ecn --ecn-tcp-ece ! --ecn-tcp-cwr --ecn-ip-ect 0"],
        &["-p tcp -m ecn --ecn-tcp-cwr", "-p tcp -m ecn --ecn-tcp-ece ! --ecn-ip-ect 0"],
    );
}

#[test]
fn the_way_back_to_a_source_is_by_the_interface_that_its_packet_came_by() {
    let from = |source| ipv4(source, 0, 17, &UDP);
    let right = ["-m rpfilter", "-m rpfilter --loose", "-m rpfilter --validmark --accept-local"];
    let wrong = ["-m rpfilter --invert", "-m rpfilter --loose --invert"];
    check(&from([192, 0, 2, 100]), &right, &wrong);
    check(&ipv6(0x100, 17, &[&UDP]), &right, &wrong);
    // Of the network behind the other interface, and of none that is known.
    check(&from([10, 0, 0, 50]), &[right[1], wrong[0]], &[right[0], right[2], wrong[1]]);
    check(&from([198, 51, 100, 7]), &wrong, &right);
}
