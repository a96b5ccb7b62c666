//! A datagram from the sync group, whoever sent it, is read to an end; and what was read is written again as it was.

use lb_control::sync::message::{Message, Writer};

pub(super) fn run(bytes: &[u8]) {
    let (audience, syncid, records) = match Message::read(bytes) {
        Ok(Message::Connections(all)) => {
            (all.audience(), all.syncid, all.map_while(Result::ok).collect::<Vec<_>>())
        }
        Ok(Message::Own { syncid, call }) => {
            assert_eq!(Message::read(&call.message(syncid)), Ok(Message::Own { syncid, call }));
            return;
        }
        Err(_) => return,
    };
    assert!(records.len() <= 255, "as many as a byte can say");
    let mut writer = Writer::new(audience, syncid, bytes.len());
    let mut again = Vec::new();
    for record in &records {
        if !writer.add(record) {
            again.extend(writer.message(<[u8]>::to_vec));
            assert!(writer.add(record), "an empty message takes any connection");
        }
    }
    again.extend(writer.message(<[u8]>::to_vec));
    let read = again.iter().flat_map(|message| match Message::read(message) {
        Ok(Message::Connections(all)) => all.collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    });
    assert_eq!(read.collect::<Result<Vec<_>, _>>().as_ref(), Ok(&records));
}
