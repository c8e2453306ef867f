ask(prompt, temperature=0.15, top_p=0.8)
