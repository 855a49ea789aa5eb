"""What a patient is given, and when: amounts, doses, regimens, rules that adapt them, covariates that change."""
