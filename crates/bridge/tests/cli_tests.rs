//! The command line as people see it: help texts, answers, and how errors are told.

#[test]
fn help_and_answers() {
    let cases = trycmd::TestCases::new();
    // No configuration, colour or width of whoever runs the tests.
    cases
        .env("NO_COLOR", "1")
        .case("tests/cmd/*.trycmd")
        .register_bin(
            "neurobridge",
            std::path::Path::new(env!("CARGO_BIN_EXE_neurobridge")),
        );
    // What this build can do is part of these answers.
    if cfg!(not(feature = "kafka")) {
        cases
            .skip("tests/cmd/check-kafka.trycmd")
            .skip("tests/cmd/errors.trycmd");
    }
}
