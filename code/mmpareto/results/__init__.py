"""Tables, figures and pages of several runs."""
