"""What only those who publish entries need: measuring, cards, writing."""
