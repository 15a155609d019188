#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| onemirror_fuzz::tm_arguments::check(data));
