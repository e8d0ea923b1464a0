//! The compiled policies against an interpreter of the specification, on random policies and requests. The bench command
//! `differential` runs many more cases.

use proptest::prelude::*;

use super::testing::Case;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8000))]
    #[test]
    fn compiled_policies_decide_as_the_interpreter_does(seed in any::<u64>()) {
        if let Err(difference) = Case::new(seed).compare() {
            prop_assert!(false, "seed {seed}: {difference}");
        }
    }
}
