/* Preloaded libraries for the tests, one a macro: cc -DSYMBOL=fake_quota; without it, one that does nothing. */
#ifdef SYMBOL
int SYMBOL;
#endif
#ifdef SYMBOL2
int SYMBOL2;
#endif
int loaded_for_tests;
