//! Any bytes as records: what is accepted leads back to a command, and that stays one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use model::record::{Record, Records, clear_outcome};

fuzz_target!(|bytes: &[u8]| {
    for record in Records::new(bytes).map_while(Result::ok) {
        let mut command = record.bytes.to_vec();
        clear_outcome(&mut command);
        let (cleared, rest) = Record::split(&command).expect("a cleared record is a record");
        assert!(rest.is_empty(), "clearing changed the length");
        cleared.check_undecided().expect("a cleared record is undecided");
        assert_eq!((cleared.party(), cleared.order()), (record.party(), record.order()));
        if record.check_undecided().is_ok() {
            assert_eq!(command, record.bytes, "clearing changed a command");
        }
    }
});
