use super::*;

#[test]
fn both_sides_of_an_agreement_share_the_same() {
    for _ in 0..100 {
        let (a, b) = (KeyShare::generate().unwrap(), KeyShare::generate().unwrap());
        let (a_public, b_public) = (*a.public(), *b.public());
        let shared = a.agree(&b_public).unwrap();
        assert_eq!(shared, b.agree(&a_public).unwrap());
        assert_ne!(*shared, [0; 32]);
    }
}
