//! The event codec.

use reprise_engine::{
    event::codec::{self, EventHeader},
    id::Position,
};

/// What decodes encodes to something that decodes to an equal event, in no more bytes; a byte more is no event.
pub(super) fn event(input: &[u8]) {
    let Ok((event, fingerprint)) = codec::decode(Position(7), input) else { return };
    assert!(codec::decode(Position(7), &[input, &[0]].concat()).is_err(), "a byte was left over");
    let header = EventHeader { time_ms: event.time_ms, push: event.push, fingerprint, actor: event.actor.clone() };
    let mut bytes = Vec::new();
    codec::encode(&header, &event.body, &mut bytes).expect("what was decoded can be encoded");
    assert!(bytes.len() <= input.len(), "what is written is the shortest form: {} > {}", bytes.len(), input.len());
    let again = codec::decode(Position(7), &bytes).expect("what was encoded can be decoded");
    assert_eq!(again, (event, fingerprint));
}

/// The golden bytes of every kind and version.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    super::corpus::kept(&super::log::golden("events"))
}
