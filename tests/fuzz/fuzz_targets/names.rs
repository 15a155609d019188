#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| onemirror_fuzz::names::check(data));
