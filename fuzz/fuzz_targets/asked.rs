//! Any bytes as commands that a caller sends: what is taken is a caller's, and as it was sent; what
//! is refused leaves nothing.
#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use model::Realm;
use model::record::{Body, CommandBuffer};

fuzz_target!(|bytes: &[u8]| -> Corpus {
    let mut commands = CommandBuffer::default();
    if commands.push_asked(bytes, None).is_err() {
        assert!(commands.bytes().is_empty() && commands.count() == 0 && !commands.is_unsealed());
        return Corpus::Reject;
    }
    assert_eq!(commands.bytes(), bytes);
    let (mut count, mut private_parts) = (0, 0);
    for record in commands.records() {
        let record = record.expect("what was taken is a record");
        record.check_undecided().expect("what was taken is undecided");
        assert!(record.home(1).is_some() && record.realm() == Realm::Live);
        count += 1;
        private_parts += u32::from(matches!(record.body, Body::Place { private: [_, ..], .. }));
    }
    assert_eq!(count, commands.count());
    let mut sealed = 0;
    let seal = |_, _, _, _: &mut [u8]| {
        sealed += 1;
        Ok::<_, ()>(())
    };
    commands.seal(seal).expect("nothing fails");
    assert_eq!(sealed, private_parts);
    Corpus::Keep
});
