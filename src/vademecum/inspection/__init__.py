"""Who learned what: a trained model is shown seven domains of text, and a page says which parts answered to which."""
